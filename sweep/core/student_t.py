"""Student's t: how far a mean or a difference may lie from its true value."""

from __future__ import annotations

import functools


def margin(standard_error: float, freedom: int, probability: float = 0.975) -> float:
    """The quantile of Student's t times a standard error; by default, half of a two-sided 95 % interval.

    Args:
        standard_error: of the estimate.
        freedom: degrees of freedom that the standard error was estimated with, 1 or more.
        probability: of the quantile.
    """
    return _quantile(probability, freedom) * standard_error


@functools.cache
def _quantile(probability: float, freedom: int) -> float:
    from scipy.stats import t  # slow to import

    return float(t.ppf(probability, freedom))

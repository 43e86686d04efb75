"""Confidence intervals of means and differences, by Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from sweep.core.student_t import margin
from trainer.metrics import bootstrap_means, interval, mean


def difference_interval(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[float, float]:
    """The 95 % interval of the difference of mean NMEs, second minus first, (S, N) each, paired by seed and face.

    The variance over faces is that of a bootstrap, the variance over seeds that of their differences, with Student's t:
    a bootstrap over so few would be too narrow. With one seed, the interval covers the faces only.
    """
    pairs = second - first
    faces = bootstrap_means(pairs.mean(0)[None])
    if len(pairs) == 1:
        return interval(faces)
    each = np.array([mean(row) for row in pairs])
    half = margin(float(np.sqrt(each.var(ddof=1) / len(each) + np.nanvar(faces))), len(each) - 1)
    return float(each.mean()) - half, float(each.mean()) + half


def likely_difference(std: float, seeds: int) -> float:
    """The largest difference of two runs of one config in 95 % of cases, given the deviation of `seeds` runs."""
    return margin(2**0.5 * std, seeds - 1)


def mean_interval(runs: Sequence[float], spread: float, freedom: int) -> tuple[float, float]:
    """The 95 % interval of a mean, by Student's t.

    Args:
        runs: the values.
        spread: standard deviation of one.
        freedom: degrees of freedom it was estimated with, 1 or more.
    """
    half = margin(spread / math.sqrt(len(runs)), freedom)
    return fmean(runs) - half, fmean(runs) + half

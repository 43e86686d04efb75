"""Intervals of means and of differences, with Student's t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from sweep.core.student_t import margin
from trainer.metrics import bootstrap_means, interval, mean


def difference_interval(first: NDArray[np.floating], second: NDArray[np.floating]) -> tuple[float, float]:
    """The 95 % interval of how much larger the mean NME of `second` is, (S, N) each, of the same seeds and faces.

    The faces' part of the variance is that of a bootstrap over faces. The seeds' part is that of their differences,
    with Student's t: a bootstrap of so few of them is too narrow. One seed gives the faces' part alone.
    """
    pairs = second - first
    faces = bootstrap_means(pairs.mean(0)[None])
    if len(pairs) == 1:
        return interval(faces)
    each = np.array([mean(row) for row in pairs])
    half = margin(float(np.sqrt(each.var(ddof=1) / len(each) + np.nanvar(faces))), len(each) - 1)
    return float(each.mean()) - half, float(each.mean()) + half


def likely_difference(std: float, seeds: int) -> float:
    """What two runs of one config differ by at most, 19 times in 20, given the standard deviation of `seeds` runs."""
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

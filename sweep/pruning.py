"""When to stop a trial early: pure functions of the learning curves that the study holds.

Optuna's own pruners note in the study what they decided, so that a driver killed between deciding and telling would
forget to stop a trial. These decide the same for the same curves, however often they are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

from sweep.config import PrunerConfig

Curve = Mapping[int, float]  # epoch (from 1) -> best validation NME so far


def should_prune(config: PrunerConfig, number: int, epoch: int, curves: Mapping[int, Curve]) -> bool:
    """Whether trial `number`, which has just reported `epoch`, should stop.

    Args:
        config: which rule.
        number: of the trial; its own curve is in `curves`.
        epoch: its last, from 1.
        curves: of every trial that has reported anything, by number.
    """
    if config.name == "none":
        return False
    if config.name == "median":
        return _below_median(config, number, epoch, curves)
    first = config.min_epochs
    if config.name == "hyperband":
        bracket = number % config.brackets
        first *= config.reduction**bracket
        curves = {n: curve for n, curve in curves.items() if n % config.brackets == bracket}
    rung = last_rung(epoch, first, config.reduction)
    return rung is not None and not _in_top(number, rung, curves, config.reduction)


def last_rung(epoch: int, first: int, reduction: int) -> int | None:
    """The last of first, first x reduction, first x reduction^2, ... up to an epoch; None before the first."""
    if epoch < first:
        return None
    rung = first
    while rung * reduction <= epoch:
        rung *= reduction
    return rung


def _in_top(number: int, rung: int, curves: Mapping[int, Curve], reduction: int) -> bool:
    """Asynchronous successive halving (Li et al., MLSys 2020): the best 1/reduction of those seen at a rung go on.

    The first to come to a rung has no one to compare with; it is compared again at each later epoch, so that a bad
    trial that came early does not run to its end.
    """
    values = sorted(curve[rung] for curve in curves.values() if rung in curve)
    places = math.ceil(len(values) / reduction)
    return curves[number][rung] <= values[places - 1]


def _below_median(config: PrunerConfig, number: int, epoch: int, curves: Mapping[int, Curve]) -> bool:
    """Median rule (Golovin et al., Vizier, KDD 2017): worse than half of the others at the same epoch."""
    others = [curve[epoch] for other, curve in curves.items() if other != number and epoch in curve]
    if epoch < config.min_epochs or len(others) < config.startup_trials:
        return False
    return curves[number][epoch] > median(others)

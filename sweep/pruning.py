"""When to stop a trial early: pure functions of the learning curves that the study holds.

Optuna's own pruners note in the study what they decided, so that a driver killed between deciding and telling would
forget to stop a trial. These decide the same for the same curves, however often they are asked.
"""

from __future__ import annotations

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
        first *= config.reduction ** (number % config.brackets)
    return is_rung(epoch, first, config.reduction) and not _in_top(number, epoch, curves, config.reduction)


def is_rung(epoch: int, first: int, reduction: int) -> bool:
    """Whether an epoch is first, first x reduction, first x reduction^2, ..."""
    rung = first
    while rung < epoch:
        rung *= reduction
    return rung == epoch


def _in_top(number: int, epoch: int, curves: Mapping[int, Curve], reduction: int) -> bool:
    """Asynchronous successive halving (Li et al., MLSys 2020): the best 1/reduction of those seen at a rung go on."""
    values = sorted(curve[epoch] for curve in curves.values() if epoch in curve)
    places = max(1, len(values) // reduction)
    return curves[number][epoch] <= values[places - 1]


def _below_median(config: PrunerConfig, number: int, epoch: int, curves: Mapping[int, Curve]) -> bool:
    """Median rule (Golovin et al., Vizier, KDD 2017): worse than half of the others at the same epoch."""
    others = [curve[epoch] for other, curve in curves.items() if other != number and epoch in curve]
    if epoch < config.min_epochs or len(others) < config.startup_trials:
        return False
    return curves[number][epoch] > median(others)

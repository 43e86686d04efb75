"""Which trials to stop for good: pure functions of the learning curves that the study holds.

Optuna's own pruners note in the study what they decided, so that a driver killed between deciding and telling would
forget to stop a trial. These decide the same for the same curves, however often they are asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

from sweep.core.sections import PrunerConfig

Curve = Mapping[int, float]  # epoch (from 1) -> best validation NME so far


def should_prune(
    config: PrunerConfig, rungs: Sequence[int], number: int, epoch: int, curves: Mapping[int, Curve]
) -> bool:
    """Whether trial `number`, which has just reported `epoch`, should stop for good.

    Args:
        config: which rule.
        rungs: epochs at which trials are compared, rising.
        number: of the trial; its own curve is in `curves`.
        epoch: its last, from 1.
        curves: of every trial that has reported anything, by number.
    """
    if config.name == "none" or config.pauses:
        return False
    if config.name == "median":
        return _below_median(config, rungs[0], number, epoch, curves)
    passed = [rung for rung in rungs if rung <= epoch]
    return bool(passed) and not _in_top(number, passed[-1], curves, config.reduction)


def _in_top(number: int, rung: int, curves: Mapping[int, Curve], reduction: int) -> bool:
    """Asynchronous successive halving (Li et al., MLSys 2020): the best 1/reduction of those seen at a rung go on.

    The first to come to a rung has no one to compare with; it is compared again at each later epoch, so that a bad
    trial that came early does not run to its end.
    """
    values = sorted(curve[rung] for curve in curves.values() if rung in curve)
    quota = math.ceil(len(values) / reduction)
    return curves[number][rung] <= values[quota - 1]


def _below_median(config: PrunerConfig, first: int, number: int, epoch: int, curves: Mapping[int, Curve]) -> bool:
    """Median rule (Golovin et al., Vizier, KDD 2017): worse than half of the others at the same epoch."""
    others = [curve[epoch] for other, curve in curves.items() if other != number and epoch in curve]
    if epoch < first or len(others) < config.startup_trials:
        return False
    return curves[number][epoch] > median(others)

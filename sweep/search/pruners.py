"""When to pause a trial, to let it go on, or to stop it: pure functions of the learning curves that the study holds.

Halving and hyperband compare trials at rungs: epochs that lie ever further apart. A trial that comes to a rung goes on
at once if it is among the best there; else it is paused, and goes on when it has become one of the best 1/reduction of
all that have come (asynchronous successive halving with promotion, Li et al., MLSys 2020, algorithm 2).

Optuna's own pruners note in the study what they decided, so that a driver killed between deciding and telling would
forget to stop a trial. These decide the same for the same curves, however often they are asked.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from sweep.core.config import PrunerConfig

Curve = Mapping[int, float]  # epoch (from 1) -> best validation NME so far


def should_prune(config: PrunerConfig, number: int, epoch: int, curves: Mapping[int, Curve]) -> bool:
    """Whether trial `number`, which has just reported `epoch`, should stop for good.

    Args:
        config: which rule.
        number: of the trial; its own curve is in `curves`.
        epoch: its last, from 1.
        curves: of every trial that has reported anything, by number.
    """
    if config.name == "none" or config.pauses:
        return False
    if config.name == "median":
        return _below_median(config, number, epoch, curves)
    curves = {n: curve for n, curve in curves.items() if bracket(config, n) == bracket(config, number)}
    rung = last_rung(epoch, first_rung(config, number), config.reduction)
    return rung is not None and not _in_top(number, rung, curves, config.reduction)


def rungs(config: PrunerConfig, number: int, epochs: int) -> Sequence[int]:
    """The epochs at which a trial may be paused, rising, all before the last epoch."""
    return _rungs(first_rung(config, number), config.reduction, epochs) if config.pauses else ()


@functools.cache
def _rungs(first: int, reduction: int, epochs: int) -> tuple[int, ...]:
    found, rung = [], first
    while rung < epochs:
        found.append(rung)
        rung *= reduction
    return tuple(found)


def first_rung(config: PrunerConfig, number: int) -> int:
    """The first rung of a trial: in each of hyperband's brackets it is later than in the one before."""
    return config.min_epochs * config.reduction ** bracket(config, number)


def bracket(config: PrunerConfig, number: int) -> int:
    """Hyperband's bracket of a trial; each has half as many trials as the one before: 0 1 0, or 0 1 0 2 0 1 0.

    With a reduction of 3, Hyperband's own numbers are much the same, such as 9, 5 and 3 (Li et al., JMLR 2018).
    """
    if config.name != "hyperband":
        return 0
    place = number % (2**config.brackets - 1) + 1
    return (place & -place).bit_length() - 1  # zeros at the end of its binary digits


@dataclass
class Rung:
    """Who has come to a rung of a bracket, and who of them waits there: (value, number) in order, the best first."""

    arrived: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)

    def come(self, number: int, value: float) -> None:
        """Notes that a trial has come; less is better, and of equals the older."""
        insort(self.arrived, (value, number))

    def wait(self, number: int, value: float) -> None:
        """Notes that it is paused there."""
        insort(self.waiting, (value, number))

    def leave(self, number: int, value: float) -> None:
        """Notes that it no longer is."""
        del self.waiting[bisect_left(self.waiting, (value, number))]

    def places(self, reduction: int) -> int:
        """How many deserve to go on: the best 1/reduction, rounded down."""
        return len(self.arrived) // reduction

    def deserves(self, number: int, value: float, reduction: int) -> bool:
        """Whether a trial is one of these."""
        places = self.places(reduction)
        return places > 0 and (value, number) <= self.arrived[places - 1]

    def deserving(self, reduction: int) -> list[tuple[float, int]]:
        """Those of them that wait."""
        places = self.places(reduction)
        return self.waiting[: bisect_right(self.waiting, self.arrived[places - 1])] if places else []


def promotable(config: PrunerConfig, values: Mapping[int, float]) -> set[int]:
    """The trials that deserve to go on from a rung: the best 1/reduction of each bracket, rounded down.

    Args:
        config: which rule.
        values: of all trials that have come to the rung, by number; less is better.
    """
    found = rivals(config, values).values()
    return {number for rung in found for _, number in rung.arrived[: rung.places(config.reduction)]}


def rivals(config: PrunerConfig, values: Mapping[int, float], waiting: Iterable[int] = ()) -> dict[int, Rung]:
    """Those who have come to a rung, and who of them waits there, by bracket."""
    found: dict[int, Rung] = defaultdict(Rung)
    for value, number in sorted((value, number) for number, value in values.items()):
        found[bracket(config, number)].come(number, value)
    for number in waiting:
        found[bracket(config, number)].wait(number, values[number])
    return found


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

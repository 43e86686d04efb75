"""Rungs: the epochs at which trials are compared, and who has come to one.

A trial that comes to a rung pauses there, unless it is what its slot would choose to do next, and may go on at any time
later: successive halving with promotion (Li et al., MLSys 2020, algorithm 2). All trials share one ladder, whose first
rung is late enough for a value to mean something.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord

_EARLIEST = 2  # epoch of a first rung: after one epoch, the order of trials may say nothing about the end
_PART = 27  # of a whole training that the first rung comes after
_DESIGN = 14  # trials: a rung tells the better third, of which there must be some to choose among
_LAST_STEP = 1.3  # the last rung is at least so many times as late as the one before
USELESS = (State.DIVERGED, State.INFEASIBLE)  # worse than all others, at every rung


def ladder(config: SweepConfig) -> tuple[int, ...]:
    """The epochs at which trials are compared, rising; the last is that of a whole training."""
    return rung_epochs(config.pruner.min_epochs, config.pruner.reduction, config.train.optim.epochs)


@functools.cache
def rung_epochs(first: int | None, reduction: int, epochs: int) -> tuple[int, ...]:
    """The ladder of a training of so many epochs, from a first rung that is given or follows from them."""
    rung = max(_EARLIEST, math.ceil(epochs / _PART)) if first is None else first
    found: list[int] = []
    while rung < epochs and (not found or rung * _LAST_STEP < epochs):
        found.append(rung)
        rung *= reduction
    return (*found, epochs)


def first_design(config: SweepConfig) -> int:
    """How many trials come to the first rung before any goes on from it, or is suggested by what was learnt."""
    if config.sampler.startup_trials is not None:
        return config.sampler.startup_trials
    return _DESIGN if config.trials is None else min(_DESIGN, math.ceil(config.trials / 2))


def pauses(config: SweepConfig, record: TrialRecord) -> Sequence[int]:
    """The epochs after which a trial may have to wait for others, rising; a repeat never waits."""
    return ladder(config)[:-1] if config.pruner.pauses and record.repeats is None else ()


def next_stop(config: SweepConfig, record: TrialRecord) -> int:
    """The epoch up to which a trial runs for sure, once it runs: its next rung or its last epoch."""
    gone = record.epochs
    return next((pause for pause in pauses(config, record) if pause > gone), config.train.optim.epochs)


def arrivals(config: SweepConfig, record: TrialRecord) -> dict[int, float]:
    """The rungs that a trial counts at, with its NME there; of a failed one nothing is known.

    One that is of no use is the worst at all that it has come to, and at the one that it was on its way to.
    """
    if record.repeats is not None or record.state is State.FAILED:
        return {}
    rungs = ladder(config)
    found = {rung: record.curve[rung] for rung in rungs if rung in record.curve}
    if record.state in USELESS:
        found = dict.fromkeys([*found, *(rung for rung in rungs if rung not in found)][: len(found) + 1], math.inf)
    return found


@dataclass
class Rung:
    """Who has come to a rung, and who of them waits there: (value, number) in order, the best first."""

    arrived: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[float, int]] = field(default_factory=list)

    @classmethod
    def of(cls, values: dict[int, float], waiting: Collection[int]) -> Rung:
        """The same from values by number; less is better, and of equals the older."""
        placed = sorted((value, number) for number, value in values.items())
        return cls(placed, [(value, number) for value, number in placed if number in waiting])

    def come(self, number: int, value: float) -> None:
        """Notes that a trial has come."""
        insort(self.arrived, (value, number))

    def forget(self, number: int, value: float) -> None:
        """Notes that it counts no longer with this value."""
        del self.arrived[bisect_left(self.arrived, (value, number))]

    def wait(self, number: int, value: float) -> None:
        """Notes that it is paused there."""
        insort(self.waiting, (value, number))

    def leave(self, number: int, value: float) -> None:
        """Notes that it no longer is."""
        del self.waiting[bisect_left(self.waiting, (value, number))]

    def deserving(self, reduction: int) -> list[tuple[float, int]]:
        """Those who wait and are among the best 1/reduction, rounded down, of all that have come."""
        places = len(self.arrived) // reduction
        return self.waiting[: bisect_right(self.waiting, self.arrived[places - 1])] if places else []

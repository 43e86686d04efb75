"""Rungs: the epochs at which trials are compared, and which trials have reached them.

A trial that reaches a rung pauses there unless it would be promoted at once, and may be promoted at any later time:
asynchronous successive halving (Li et al., MLSys 2020, algorithm 2). All trials share one bracket, whose first rung is
late enough for a value to say something about the end of training.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sweep.core.config import SearchConfig
from sweep.core.trial import State, TrialRecord

_MIN_FIRST_RUNG = 2  # epoch; after a single one, the ranking of trials may be unrelated to the final one
_FIRST_RUNG_DIVISOR = 27  # the first rung is at this fraction of a whole training
_FIRST_DESIGN = 14  # trials: a rung identifies the better third, so a few of them must be in it
_MIN_LAST_RATIO = 1.3  # between the epochs of the last two rungs


def ladder(config: SearchConfig) -> tuple[int, ...]:
    """The epochs at which trials are compared, ascending; the last one is the end of training."""
    return rung_epochs(config.pruner.min_epochs, config.pruner.reduction, config.train.optim.epochs)


@functools.cache
def rung_epochs(first: int | None, reduction: int, epochs: int) -> tuple[int, ...]:
    """The rungs of a training of `epochs` epochs; without `first`, the first rung is derived from their number."""
    rung = max(_MIN_FIRST_RUNG, math.ceil(epochs / _FIRST_RUNG_DIVISOR)) if first is None else first
    found: list[int] = []
    while rung < epochs and (not found or rung * _MIN_LAST_RATIO < epochs):
        found.append(rung)
        rung *= reduction
    return (*found, epochs)


def first_design(config: SearchConfig) -> int:
    """Size of the initial design: trials that reach the first rung before any is promoted or suggested by a model."""
    if config.sampler.startup_trials is not None:
        return config.sampler.startup_trials
    return _FIRST_DESIGN if config.trials is None else min(_FIRST_DESIGN, math.ceil(config.trials / 2))


def pause_epochs(config: SearchConfig, record: TrialRecord) -> Sequence[int]:
    """The epochs after which a trial may be paused, ascending; a repeat is never paused."""
    return ladder(config)[:-1] if config.pruner.pauses and record.replicate_of is None else ()


def next_rung(config: SearchConfig, record: TrialRecord) -> int:
    """The epoch that a trial is trained to without another decision: its next rung, or its last epoch."""
    ahead = (epoch for epoch in pause_epochs(config, record) if epoch > record.epochs)
    return next(ahead, config.train.optim.epochs)


def arrivals(config: SearchConfig, record: TrialRecord) -> dict[int, float]:
    """The rungs at which a trial is ranked, and its NME there (a fraction); none for failed trials and repeats.

    A diverged or infeasible trial ranks last (infinite) at every rung it has reached and at the one it was heading for.
    """
    if record.replicate_of is not None or record.state is State.FAILED:
        return {}
    rungs = ladder(config)
    found = {rung: record.curve[rung] for rung in rungs if rung in record.curve}
    if not record.state.usable:
        found = dict.fromkeys([*found, *(rung for rung in rungs if rung not in found)][: len(found) + 1], math.inf)
    return found


@dataclass
class Rung:
    """The trials that have reached a rung and those paused at it: (value, number), best first."""

    reached: list[tuple[float, int]] = field(default_factory=list)
    paused: list[tuple[float, int]] = field(default_factory=list)

    @classmethod
    def of(cls, values: dict[int, float], paused: Collection[int]) -> Rung:
        """Builds a rung from values by trial number; lower is better, ties go to the older trial."""
        ranked = sorted((value, number) for number, value in values.items())
        return cls(ranked, [(value, number) for value, number in ranked if number in paused])

    def add(self, number: int, value: float) -> None:
        """Adds a trial that has reached the rung."""
        insort(self.reached, (value, number))

    def remove(self, number: int, value: float) -> None:
        """Removes a trial that was added with this value."""
        del self.reached[bisect_left(self.reached, (value, number))]

    def pause(self, number: int, value: float) -> None:
        """Marks a trial as paused at the rung."""
        insort(self.paused, (value, number))

    def resume(self, number: int, value: float) -> None:
        """Marks a trial as no longer paused."""
        del self.paused[bisect_left(self.paused, (value, number))]

    def promotable(self, reduction: int) -> list[tuple[float, int]]:
        """The paused trials among the best 1/`reduction` of all that have reached the rung, rounded down."""
        quota = len(self.reached) // reduction
        return self.paused[: bisect_right(self.paused, self.reached[quota - 1])] if quota else []

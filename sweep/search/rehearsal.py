"""How many epochs a sweep will still take: its scheduler plays the rest of it, with trials of random quality. Pure."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.pruners import should_prune
from sweep.search.rungs import ladder, pauses
from sweep.search.scheduler import Step, next_step, worst_paused
from sweep.search.trial_table import Trials

_PLAYS = 5  # with other random qualities, of which the mean is taken
_TRIALS = 100  # new ones are played at most; of more, each is reckoned like these
_NOISE = 0.03  # between runs of one configuration, relative
_BEYOND = 0.1  # how much better than the best known, or worse than the worst, a trial may turn out, relative


@dataclass(frozen=True)
class Extent:
    """What is expected to come.

    Attributes:
        epochs: of all trials together.
        rounds: epochs one after the other, with several trials side by side.
    """

    epochs: float
    rounds: float


def expected_extent(
    config: SweepConfig, slots: int, records: Sequence[TrialRecord] = (), shares: Mapping[int, float] | None = None
) -> Extent | None:
    """What a sweep will still take; None where only time ends it.

    Args:
        config: the sweep.
        slots: trials side by side.
        records: all trials so far, by number.
        shares: how much of their running epoch running trials have behind them, by number.
    """
    shares = shares or {}
    budget = None
    if config.epochs is not None:
        budget = max(0.0, config.epochs - sum(r.epochs for r in records) - sum(shares.values()))
    trials = config.points if config.sampler.name == "grid" and config.trials is None else config.trials
    if trials is None:
        return None if budget is None else Extent(budget, budget / slots)
    new = max(0, trials - len(records))
    played = {"trials": len(records) + min(new, _TRIALS), "epochs": None, "hours": None, "device_hours": None}
    sweep, known = config.model_copy(update=played), _known(records)
    plays = [_Play(sweep, slots, random.Random(seed), records, shares, known).rest() for seed in range(_PLAYS)]
    scale = max(1.0, new / _TRIALS)
    epochs, rounds = fmean(p.epochs for p in plays) * scale, fmean(p.rounds for p in plays) * scale
    within = 1.0 if budget is None else min(1.0, budget / max(epochs, 1e-9))
    return Extent(epochs * within, rounds * within)


_Known = Mapping[int, Sequence[float]]  # epoch -> NMEs of all trials after it, rising


def _known(records: Sequence[TrialRecord]) -> _Known:
    found: dict[int, list[float]] = defaultdict(list)
    for record in records:
        for epoch, nme in record.curve.items():
            found[epoch].append(nme)
    for nmes in found.values():
        nmes.sort()
    return found


class _Play:
    """One way in which the rest may go. A trial keeps its rank (0 best, 1 worst) among all that come to an epoch."""

    def __init__(
        self,
        config: SweepConfig,
        slots: int,
        chance: random.Random,
        records: Sequence[TrialRecord],
        shares: Mapping[int, float],
        known: _Known,
    ) -> None:
        self._config, self._slots, self._chance, self._known = config, slots, chance, known
        self._trials, self._rungs = Trials(config, records), ladder(config)
        self._began = self._trials.epochs + sum(shares.values())
        self._ranks: dict[int, float] = {}
        self._ends: list[
            tuple[float, int]
        ] = []  # of what runs: when it will have come as far as it surely goes, number
        self._now = 0.0
        for record in records:
            if not record.state.finished:
                self._ranks[record.number] = self._rank(record)
            if record.state is State.RUNNING:
                self._go_on(record, shares.get(record.number, 0.0))

    def rest(self) -> Extent:
        """Plays to the end."""
        self._fill()
        while self._ends:
            self._now, number = heapq.heappop(self._ends)
            self._arrive(number)
            self._fill()
        return Extent(self._trials.epochs - self._began, self._now)

    def _fill(self) -> None:
        """Starts what fits."""
        while len(self._ends) < self._slots and (step := next_step(self._config, self._trials, self._live, 0.0)):
            if step.kind == "resume":
                record = replace(self._trials[step.number], state=State.RUNNING)
            else:
                record = TrialRecord(len(self._trials), {})
                self._ranks[record.number] = self._chance.random()
                if step.kind == "repeat":
                    record = replace(record, seed=step.seed, repeats=step.number)
            self._go_on(record)

    @property
    def _live(self) -> set[int]:
        return {number for _, number in self._ends}

    def _go_on(self, record: TrialRecord, share: float = 0.0) -> None:
        self._trials.put(record)
        heapq.heappush(self._ends, (self._now + self._stop(record.number) - record.epochs - share, record.number))

    def _stop(self, number: int) -> int:
        """The epoch at which is decided next about a trial that runs."""
        return self._trials.stops[number] if self._config.pruner.pauses else self._trials[number].epochs + 1

    def _arrive(self, number: int) -> None:
        """A trial has come to its next stop; what becomes of it."""
        epoch = self._stop(number)
        record = replace(self._trials[number], curve={**self._trials[number].curve, epoch: self._nme(number, epoch)})
        self._trials.put(record)
        if epoch >= self._config.train.optim.epochs:
            self._trials.put(replace(record, state=State.COMPLETE))
        elif record.repeats is not None:
            self._go_on(record)
        elif should_prune(self._config.pruner, self._rungs, number, epoch, {r.number: r.curve for r in self._trials}):
            self._trials.put(replace(record, state=State.PRUNED))
        elif epoch not in pauses(self._config, record):
            self._go_on(record)
        else:
            self._trials.put(replace(record, state=State.PAUSED))
            if next_step(self._config, self._trials, self._live, 0.0) == Step("resume", number):
                self._go_on(record)
            while (worst := worst_paused(self._config, self._trials)) is not None:
                self._trials.put(replace(worst, state=State.PRUNED))

    def _rank(self, record: TrialRecord) -> float:
        if record.best_nme is None:
            return self._chance.random()
        others = self._known[record.epochs]
        return bisect_right(others, record.best_nme) / (len(others) + 1)

    def _nme(self, number: int, epoch: int) -> float:
        """Of its rank among those that are known after this epoch; where none is, the rank is as good as any."""
        record = self._trials[number]
        if record.repeats is not None:
            return (self._trials[record.repeats].best_nme or 1.0) * self._chance.gauss(1.0, _NOISE)
        rank, others = self._ranks[number], self._known.get(epoch, ())
        if not others:
            return 1.0 + rank
        gap = min(int(rank * (len(others) + 1)), len(others))
        below = others[gap - 1] if gap else others[0] * (1 - _BEYOND)
        above = others[gap] if gap < len(others) else others[-1] * (1 + _BEYOND)
        return below + (above - below) * (rank * (len(others) + 1) - gap)

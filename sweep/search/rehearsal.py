"""How many epochs a sweep will still take, by simulating the rest of it with trials of random quality. Pure."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from sweep.core.config import SearchConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.pruners import should_prune
from sweep.search.rungs import ladder, pause_epochs
from sweep.search.scheduler import Action, next_action, worst_paused
from sweep.search.trial_table import TrialTable

_SIMULATIONS = 5  # averaged, each with other random qualities
_MAX_NEW = 100  # new trials simulated; the extent of more is extrapolated
_NOISE = 0.03  # relative standard deviation between runs of one configuration
_BEYOND = 0.1  # relative margin by which a new trial may be better or worse than all known ones


@dataclass(frozen=True)
class Extent:
    """The expected rest of a sweep.

    Attributes:
        epochs: of all trials together.
        rounds: epochs one after the other, with several trials side by side.
    """

    epochs: float
    rounds: float


def expected_extent(
    config: SearchConfig, slots: int, records: Sequence[TrialRecord] = (), shares: Mapping[int, float] | None = None
) -> Extent | None:
    """How many epochs a sweep will still take; None if only time ends it.

    Args:
        config: the sweep.
        slots: parallel trials.
        records: all trials so far, by number.
        shares: part of its running epoch that each running trial has done, by number.
    """
    shares = shares or {}
    budget = None
    if config.epochs is not None:
        budget = max(0.0, config.epochs - sum(r.epochs for r in records) - sum(shares.values()))
    trials = config.points if config.sampler.name == "grid" and config.trials is None else config.trials
    if trials is None:
        return None if budget is None else Extent(budget, budget / slots)
    new = max(0, trials - len(records))
    simulated = {"trials": len(records) + min(new, _MAX_NEW), "epochs": None, "hours": None, "device_hours": None}
    sweep, known = config.model_copy(update=simulated), _known(records)
    runs = [_Rehearsal(sweep, slots, random.Random(s), records, shares, known).rest() for s in range(_SIMULATIONS)]
    scale = max(1.0, new / _MAX_NEW)
    epochs, rounds = fmean(r.epochs for r in runs) * scale, fmean(r.rounds for r in runs) * scale
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


class _Rehearsal:
    """One simulation of the rest. A trial keeps its rank (0 best, 1 worst) among all trials at every epoch."""

    def __init__(
        self,
        config: SearchConfig,
        slots: int,
        rng: random.Random,
        records: Sequence[TrialRecord],
        shares: Mapping[int, float],
        known: _Known,
    ) -> None:
        self._config, self._slots, self._rng, self._known = config, slots, rng, known
        self._trials, self._rungs = TrialTable(config, records), ladder(config)
        self._began = self._trials.epochs + sum(shares.values())
        self._ranks: dict[int, float] = {}
        self._ends: list[tuple[float, int]] = []  # of running trials: time of the next decision, number
        self._now = 0.0
        for record in records:
            if not record.state.finished:
                self._ranks[record.number] = self._rank(record)
            if record.state is State.RUNNING:
                self._resume(record, shares.get(record.number, 0.0))

    def rest(self) -> Extent:
        """Simulates the sweep to its end."""
        self._fill()
        while self._ends:
            self._now, number = heapq.heappop(self._ends)
            self._decide(number)
            self._fill()
        return Extent(self._trials.epochs - self._began, self._now)

    def _fill(self) -> None:
        """Starts trials in all free slots."""
        while len(self._ends) < self._slots and (action := next_action(self._config, self._trials, self._live, 0.0)):
            if action.kind == "resume":
                record = replace(self._trials[action.number], state=State.RUNNING)
            else:
                record = TrialRecord(len(self._trials), {})
                self._ranks[record.number] = self._rng.random()
                if action.kind == "repeat":
                    record = replace(record, seed=action.seed, replicate_of=action.number)
            self._resume(record)

    @property
    def _live(self) -> set[int]:
        return {number for _, number in self._ends}

    def _resume(self, record: TrialRecord, share: float = 0.0) -> None:
        self._trials.upsert(record)
        heapq.heappush(
            self._ends, (self._now + self._decision_epoch(record.number) - record.epochs - share, record.number)
        )

    def _decision_epoch(self, number: int) -> int:
        """The epoch at which the next decision about a running trial is made."""
        return self._trials.next_rung[number] if self._config.pruner.pauses else self._trials[number].epochs + 1

    def _decide(self, number: int) -> None:
        """A trial has reached the epoch of a decision: completes, stops, pauses or resumes it."""
        epoch = self._decision_epoch(number)
        record = replace(self._trials[number], curve={**self._trials[number].curve, epoch: self._nme(number, epoch)})
        self._trials.upsert(record)
        if epoch >= self._config.train.optim.epochs:
            self._trials.upsert(replace(record, state=State.COMPLETE))
        elif record.replicate_of is not None:
            self._resume(record)
        elif should_prune(self._config.pruner, self._rungs, number, epoch, {r.number: r.curve for r in self._trials}):
            self._trials.upsert(replace(record, state=State.PRUNED))
        elif epoch not in pause_epochs(self._config, record):
            self._resume(record)
        else:
            self._trials.upsert(replace(record, state=State.PAUSED))
            if next_action(self._config, self._trials, self._live, 0.0) == Action("resume", number):
                self._resume(record)
            while (worst := worst_paused(self._config, self._trials)) is not None:
                self._trials.upsert(replace(worst, state=State.PRUNED))

    def _rank(self, record: TrialRecord) -> float:
        if record.best_nme is None:
            return self._rng.random()
        others = self._known[record.epochs]
        return bisect_right(others, record.best_nme) / (len(others) + 1)

    def _nme(self, number: int, epoch: int) -> float:
        """The quantile at the trial's rank of all NMEs known after this epoch; without any, the rank itself."""
        record = self._trials[number]
        if record.replicate_of is not None:
            return (self._trials[record.replicate_of].best_nme or 1.0) * self._rng.gauss(1.0, _NOISE)
        rank, others = self._ranks[number], self._known.get(epoch, ())
        if not others:
            return 1.0 + rank
        gap = min(int(rank * (len(others) + 1)), len(others))
        below = others[gap - 1] if gap else others[0] * (1 - _BEYOND)
        above = others[gap] if gap < len(others) else others[-1] * (1 + _BEYOND)
        return below + (above - below) * (rank * (len(others) + 1) - gap)

"""What a free slot does next: a new trial, a paused one that has become good enough, or a repeat of one of the best.

Pure functions of config and records, so that the simulator and a driver that was killed decide as the driver does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sweep.config import SweepConfig
from sweep.objectives import costs
from sweep.pruning import promotable, rungs
from sweep.records import State, TrialRecord
from sweep.repeats import next_repeat

_ROUNDING = 1e-9  # of a share of trials


@dataclass(frozen=True)
class Step:
    """What to do: resume trial `number`, repeat it with `seed`, or start a new one."""

    kind: Literal["new", "resume", "repeat"]
    number: int = -1
    seed: int = 0


def next_stop(config: SweepConfig, record: TrialRecord) -> int:
    """The epoch up to which a trial runs for sure, once it runs: its next rung or its last epoch."""
    return next((pause for pause in pauses(config, record) if pause > record.epochs), config.train.optim.epochs)


def pauses(config: SweepConfig, record: TrialRecord) -> Sequence[int]:
    """The epochs after which a trial may have to wait for others, rising; a repeat never waits."""
    return () if record.repeats is not None else rungs(config.pruner, record.number, config.train.optim.epochs)


def standings(config: SweepConfig, records: Sequence[TrialRecord], rung: int) -> dict[int, float]:
    """How good trials were at a rung, less is better: their NME, or how many are better in both objectives."""
    nme = {r.number: r.curve[rung] for r in records if rung in r.curve and r.repeats is None}
    if len(config.objectives) == 1:
        return nme
    cost = costs(config.objectives[1], records)
    ceiling = max(nme.values(), default=1.0) + 1.0

    def beaten(a: int) -> int:
        return sum(nme[b] < nme[a] and cost.get(b, math.inf) < cost.get(a, math.inf) for b in nme)

    return {n: beaten(n) + value / ceiling for n, value in nme.items()}  # the NME decides between equals


def keeps_running(config: SweepConfig, records: Sequence[TrialRecord], number: int, live: Collection[int]) -> bool:
    """Whether a trial that has just reported goes on at once: it deserves to, and the budget reaches so far."""
    if records[number].epochs not in pauses(config, records[number]):
        return True
    return goes_on(config, records, number) and _Room(config, records, live, 0.0).fits()


def goes_on(config: SweepConfig, records: Sequence[TrialRecord], number: int) -> bool:
    """Whether a trial that stands at its last epoch deserves to go on: it is at no rung, or among the best there."""
    record = records[number]
    return record.epochs not in pauses(config, record) or number in _best_at(config, records, record.epochs)


def _best_at(config: SweepConfig, records: Sequence[TrialRecord], rung: int) -> set[int]:
    return promotable(config.pruner, standings(config, records, rung))


def next_step(
    config: SweepConfig, records: Sequence[TrialRecord], live: Collection[int], hours: float, *, full: bool = False
) -> Step | None:
    """What a free slot does next; None where there is nothing to do, at least until a trial that runs has come further.

    Args:
        config: the sweep.
        records: all trials, by number.
        live: numbers of those that run.
        hours: for how long this call of the sweep has been running.
        full: whether all configurations of a finite space have been tried.
    """
    room = _Room(config, records, live, hours)
    paused = [r for r in records if r.state is State.PAUSED]
    if room.searching:
        best_at = {rung: _best_at(config, records, rung) for rung in {r.epochs for r in paused}}
        for record in _in_order(config, records, [r for r in paused if r.number in best_at[r.epochs]]):
            if room.fits(record):
                return Step("resume", record.number)
        if not full and room.takes_new():
            return Step("new")
    if not live and not room.complete and paused and room.below(1.0):
        first = _in_order(config, records, paused)[0]
        if room.fits(first):
            return Step("resume", first.number)  # or there would be no winner
    if config.repeats.share and room.takes_repeat() and len(config.objectives) == 1:
        chosen = next_repeat(config.repeats, records, config.train.run.seed)
        return chosen and Step("repeat", *chosen)
    return None


def worst_paused(config: SweepConfig, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial to give up, where more are paused than shall be kept; None where there is room."""
    paused = [r for r in records if r.state is State.PAUSED]
    return _in_order(config, records, paused)[-1] if len(paused) > config.pruner.paused else None


def _in_order(
    config: SweepConfig, records: Sequence[TrialRecord], paused: Collection[TrialRecord]
) -> list[TrialRecord]:
    """Those that have come further first, of equals the best."""
    table: Mapping[int, Mapping[int, float]] = {e: standings(config, records, e) for e in {r.epochs for r in paused}}
    return sorted(paused, key=lambda r: (-r.epochs, table[r.epochs][r.number], r.number))


def _pays_repeats(config: SweepConfig) -> bool:
    """Whether a part of the budget is set aside for repeats: where it holds a run of each candidate, as measured."""
    share, candidates = config.repeats.share, config.repeats.candidates
    if len(config.objectives) > 1 or config.sampler.name == "grid":
        return False
    if config.epochs is not None and config.epochs * share < candidates * config.train.optim.epochs:
        return False
    return config.trials is None or math.floor(config.trials * share + _ROUNDING) >= candidates


class _Room:
    """What the budget still allows. A part of it, `repeats.share`, is not for the search, unless that ends with one."""

    def __init__(
        self, config: SweepConfig, records: Sequence[TrialRecord], live: Collection[int], hours: float
    ) -> None:
        self._config, self._records, self._live, self._hours = config, records, live, hours
        complete = sum(r.state is State.COMPLETE and r.repeats is None for r in records)
        self.complete = complete > 0
        reserved = _pays_repeats(config) and (complete > 1 or len(live) > 0)
        self._share = 1 - (config.repeats.share if reserved else 0.0)
        self.searching = self.below(self._share)

    @cached_property
    def _epochs(self) -> int:
        """Spent, and promised to those that run."""
        running = (self._records[n] for n in self._live)
        return sum(r.epochs for r in self._records) + sum(next_stop(self._config, r) - r.epochs for r in running)

    def fits(self, record: TrialRecord | None = None) -> bool:
        """Whether a trial can run to its next stop (None: all that run can), and one trial be brought to its end.

        Until a trial is complete, the whole budget is for that.
        """
        limit = self._config.epochs
        if limit is None:
            return True
        cost = 0 if record is None else next_stop(self._config, record) - record.epochs
        if self.complete:
            return self._epochs + cost <= limit * self._share
        running = [self._records[n] for n in self._live] + ([] if record is None else [record])
        furthest = max((next_stop(self._config, r) for r in running), default=0)
        waiting = max((r.epochs for r in self._records if r.state is State.PAUSED), default=0)
        rest = self._config.train.optim.epochs - max(furthest, waiting)
        return self._epochs + cost + rest <= limit

    def takes_new(self) -> bool:
        """Whether another configuration may be started."""
        trials, count = self._config.trials, len(self._records)
        begun = TrialRecord(count, {}, State.RUNNING)
        return (trials is None or count < trials - self._reserved(trials)) and self.fits(begun)

    def takes_repeat(self) -> bool:
        """Whether a configuration may be trained again."""
        trials, epochs, full = self._config.trials, self._config.epochs, self._config.train.optim.epochs
        room = epochs is None or self._epochs + full <= epochs
        return room and (trials is None or len(self._records) < trials) and self.below(1.0)

    def _reserved(self, trials: int) -> int:
        return math.floor(trials * (1 - self._share) + _ROUNDING)

    def below(self, share: float) -> bool:
        """Whether less than this share of the hours and of the device hours is spent."""
        config = self._config
        if config.hours is not None and self._hours >= share * config.hours:
            return False
        return config.device_hours is None or device_hours(config, self._records) < share * config.device_hours


def device_hours(config: SweepConfig, records: Sequence[TrialRecord]) -> float:
    """Training time of all trials, times the GPUs of each; without GPUs, times one."""
    return sum(r.seconds for r in records) / 3600 * (config.resources.gpus or 1.0)

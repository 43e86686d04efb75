"""What a free slot does next: a new trial, a paused one that has become good enough, or a repeat of one of the best.

Pure functions of config and records, so that the simulator and a driver that was killed decide as the driver does.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sweep.config import SweepConfig
from sweep.objectives import costs
from sweep.pruning import promotable, rungs
from sweep.records import State, TrialRecord
from sweep.repeats import next_repeat


@dataclass(frozen=True)
class Step:
    """What to do: resume trial `number`, repeat it with `seed`, or start a new one."""

    kind: Literal["new", "resume", "repeat"]
    number: int = -1
    seed: int = 0


def next_stop(config: SweepConfig, record: TrialRecord) -> int:
    """The epoch up to which a trial runs for sure, once it runs: its next rung or its last epoch."""
    epochs = config.train.optim.epochs
    stops = [] if record.repeats is not None else rungs(config.pruner, record.number, epochs)
    return next((stop for stop in stops if stop > record.epochs), epochs)


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


def goes_on(config: SweepConfig, records: Sequence[TrialRecord], number: int) -> bool:
    """Whether a trial that stands at its last epoch may go on: it is at no rung, or among the best there."""
    record = records[number]
    if record.repeats is not None or record.epochs not in rungs(config.pruner, number, config.train.optim.epochs):
        return True
    return promotable(config.pruner, record.epochs, standings(config, records, record.epochs), number)


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
    if room.searching:
        for record in _paused(config, records):
            if goes_on(config, records, record.number) and room.fits(next_stop(config, record) - record.epochs):
                return Step("resume", record.number)
        if not full and room.takes_new():
            return Step("new")
    if not live and not room.complete and (best := next(iter(_paused(config, records)), None)):
        return Step("resume", best.number)  # or there would be no winner
    if config.repeats.share and room.takes_repeat() and len(config.objectives) == 1:
        chosen = next_repeat(config.repeats, records, config.train.run.seed)
        return chosen and Step("repeat", *chosen)
    return None


def worst_paused(config: SweepConfig, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial to give up, where more are paused than shall be kept; None where there is room."""
    paused = _paused(config, records)
    return paused[-1] if len(paused) > config.pruner.paused else None


def _paused(config: SweepConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Paused trials: those that have come further first, of equals the best."""
    paused = [r for r in records if r.state is State.PAUSED]
    table: Mapping[int, Mapping[int, float]] = {e: standings(config, records, e) for e in {r.epochs for r in paused}}
    return sorted(paused, key=lambda r: (-r.epochs, table[r.epochs][r.number], r.number))


class _Room:
    """What the budget still allows. A part of it, `repeats.share`, is not for the search."""

    def __init__(
        self, config: SweepConfig, records: Sequence[TrialRecord], live: Collection[int], hours: float
    ) -> None:
        self._config, self._records = config, records
        self._epochs = sum(r.epochs for r in records) + sum(
            next_stop(config, records[n]) - records[n].epochs for n in live
        )
        self._hours, self._device_hours = hours, device_hours(config, records)
        self.complete = any(r.state is State.COMPLETE for r in records)
        share = config.repeats.share if len(config.objectives) == 1 and config.sampler.name != "grid" else 0.0
        self._share = 1 - share
        self.searching = self._below(self._share)

    def fits(self, epochs: int, share: float | None = None) -> bool:
        """Whether so many epochs more can be spent on the search, and one trial be brought to its end."""
        limit = self._config.epochs
        if limit is None:
            return True
        if self._epochs + epochs > limit * (share or self._share):
            return False
        if self.complete:
            return True
        full = self._config.train.optim.epochs
        furthest = max((r.epochs for r in self._records if not r.state.finished), default=0)
        return self._epochs + epochs + full - furthest <= limit

    def takes_new(self) -> bool:
        """Whether another configuration may be started."""
        trials, count = self._config.trials, len(self._records)
        begun = TrialRecord(count, {}, State.RUNNING)
        return (trials is None or count < trials - self._reserved(trials)) and self.fits(next_stop(self._config, begun))

    def takes_repeat(self) -> bool:
        """Whether a configuration may be trained again."""
        trials, epochs, full = self._config.trials, self._config.epochs, self._config.train.optim.epochs
        room = epochs is None or self._epochs + full <= epochs
        return room and (trials is None or len(self._records) < trials) and self._below(1.0)

    def _reserved(self, trials: int) -> int:
        return math.floor(trials * (1 - self._share) + 1e-9)

    def _below(self, share: float) -> bool:
        limits = [(self._hours, self._config.hours), (self._device_hours, self._config.device_hours)]
        return all(limit is None or spent < share * limit for spent, limit in limits)


def device_hours(config: SweepConfig, records: Sequence[TrialRecord]) -> float:
    """Training time of all trials, times the GPUs of each; without GPUs, times one."""
    return sum(r.seconds for r in records) / 3600 * (config.resources.gpus or 1.0)

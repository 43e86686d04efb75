"""What a free slot does next: a new trial, a paused one that has become good enough, or a repeat of one of the best.

Pure functions of config and records, so that the simulator and a driver that was killed decide as the driver does.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Literal

from sweep.config import SweepConfig
from sweep.objectives import costs
from sweep.pruning import Rung, promotable, rivals
from sweep.records import State, TrialRecord
from sweep.repeats import next_repeat
from sweep.trials import Trials, next_stop, pauses

_ROUNDING = 1e-9  # of a share of trials


@dataclass(frozen=True)
class Step:
    """What to do: resume trial `number`, repeat it with `seed`, or start a new one."""

    kind: Literal["new", "resume", "repeat"]
    number: int = -1
    seed: int = 0


def keeps_running(config: SweepConfig, records: Sequence[TrialRecord], number: int, live: Collection[int]) -> bool:
    """Whether a trial that has just reported goes on at once: it deserves to, and the budget reaches so far."""
    if records[number].epochs not in pauses(config, records[number]):
        return True
    trials = Trials.of(config, records)
    return goes_on(config, trials, number) and _Room(config, trials, live, 0.0).fits()


def goes_on(config: SweepConfig, records: Sequence[TrialRecord], number: int) -> bool:
    """Whether a trial that stands at its last epoch deserves to go on: it is at no rung, or among the best there."""
    record = records[number]
    if record.epochs not in pauses(config, record):
        return True
    if len(config.objectives) == 1:
        return Trials.of(config, records).deserves(number)
    return number in promotable(config.pruner, _standings(config, records, record.epochs))


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
    trials = Trials.of(config, records)
    room = _Room(config, trials, live, hours)
    if room.searching:
        for number in _deserving(config, trials):
            if room.fits(trials[number]):
                return Step("resume", number)
        if not full and room.takes_new():
            return Step("new")
    if not live and not trials.complete and trials.paused and room.below(1.0):
        *_, first = min((-epoch, *rung.waiting[0]) for epoch, rung in _rungs(config, trials))
        if room.fits(trials[first]):
            return Step("resume", first)  # or there would be no winner
    if config.repeats.share and room.takes_repeat() and len(config.objectives) == 1:
        chosen = next_repeat(config.repeats, trials.finalists, config.train.run.seed)
        return chosen and Step("repeat", *chosen)
    return None


def worst_paused(config: SweepConfig, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial to give up, where more are paused than shall be kept; None where there is room."""
    trials = Trials.of(config, records)
    if len(trials.paused) <= config.pruner.paused:
        return None
    *_, worst = max((-epoch, *rung.waiting[-1]) for epoch, rung in _rungs(config, trials))
    return trials[worst]


def _deserving(config: SweepConfig, trials: Trials) -> list[int]:
    """The paused trials that deserve to go on: those that have come further first, of equals the best."""
    reduction = config.pruner.reduction
    places = [(-epoch, *place) for epoch, rung in _rungs(config, trials) for place in rung.deserving(reduction)]
    return [number for *_, number in sorted(places)]


def _rungs(config: SweepConfig, trials: Trials) -> list[tuple[int, Rung]]:
    """Epoch and rivals of each rung at which trials wait."""
    if len(config.objectives) == 1:
        return [(epoch, rung) for (epoch, _), rung in trials.rungs.items() if rung.waiting]
    found: list[tuple[int, Rung]] = []
    for epoch in {r.epochs for r in trials.paused}:
        values = _standings(config, trials, epoch)
        waiting = [r.number for r in trials.paused if r.epochs == epoch]
        found += [(epoch, rung) for rung in rivals(config.pruner, values, waiting).values() if rung.waiting]
    return found


def _standings(config: SweepConfig, records: Sequence[TrialRecord], rung: int) -> dict[int, float]:
    """How good trials were at a rung in two objectives, less is better: how many are better in both."""
    nme = {r.number: r.curve[rung] for r in records if rung in r.curve and r.repeats is None}
    cost = costs(config.objectives[1], records)
    ceiling = max(nme.values(), default=1.0) + 1.0
    found: dict[int, float] = {}
    seen: list[float] = []  # costs of those with a lower NME, rising
    for value, equals in groupby(sorted(nme, key=nme.__getitem__), nme.__getitem__):
        own = {number: cost.get(number, math.inf) for number in equals}
        found |= {n: bisect_left(seen, c) + value / ceiling for n, c in own.items()}  # NME decides between equals
        for c in own.values():
            insort(seen, c)
    return found


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

    def __init__(self, config: SweepConfig, trials: Trials, live: Collection[int], hours: float) -> None:
        self._config, self._trials, self._live, self._hours = config, trials, live, hours
        reserved = _pays_repeats(config) and (trials.complete > 1 or len(live) > 0)
        self._share = 1 - (config.repeats.share if reserved else 0.0)
        self.searching = self.below(self._share)

    @cached_property
    def _epochs(self) -> int:
        """Spent, and promised to those that run."""
        stops, gone = self._trials.stops, self._trials.gone
        return self._trials.epochs + sum(stops[n] - gone[n] for n in self._live)

    def fits(self, record: TrialRecord | None = None) -> bool:
        """Whether a trial can run to its next stop (None: all that run can), and one trial be brought to its end.

        Until a trial is complete, the whole budget is for that.
        """
        limit = self._config.epochs
        if limit is None:
            return True
        cost = 0 if record is None else next_stop(self._config, record) - record.epochs
        if self._trials.complete:
            return self._epochs + cost <= limit * self._share
        furthest = max((self._trials.stops[n] for n in self._live), default=0)
        if record is not None:
            furthest = max(furthest, next_stop(self._config, record))
        waiting = max((r.epochs for r in self._trials.paused), default=0)
        rest = self._config.train.optim.epochs - max(furthest, waiting)
        return self._epochs + cost + rest <= limit

    def takes_new(self) -> bool:
        """Whether another configuration may be started."""
        trials, count = self._config.trials, len(self._trials)
        begun = TrialRecord(count, {}, State.RUNNING)
        return (trials is None or count < trials - self._reserved(trials)) and self.fits(begun)

    def takes_repeat(self) -> bool:
        """Whether a configuration may be trained again."""
        trials, epochs, full = self._config.trials, self._config.epochs, self._config.train.optim.epochs
        room = epochs is None or self._epochs + full <= epochs
        return room and (trials is None or len(self._trials) < trials) and self.below(1.0)

    def _reserved(self, trials: int) -> int:
        return math.floor(trials * (1 - self._share) + _ROUNDING)

    def below(self, share: float) -> bool:
        """Whether less than this share of the hours and of the device hours is spent."""
        config = self._config
        if config.hours is not None and self._hours >= share * config.hours:
            return False
        return config.device_hours is None or device_hours(config, self._trials) < share * config.device_hours


def device_hours(config: SweepConfig, records: Sequence[TrialRecord]) -> float:
    """Training time of all trials, times the GPUs of each; without GPUs, times one."""
    return Trials.of(config, records).seconds / 3600 * (config.resources.gpus or 1.0)

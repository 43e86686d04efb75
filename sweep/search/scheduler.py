"""What a free slot does next: a new trial, a paused one that has become good enough, or a repeat of one of the best.

Pure functions of config and records, so that the simulator and a driver that was killed decide as the driver does.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from sweep.core.config import SweepConfig
from sweep.core.trial import TrialRecord
from sweep.search.budget import BudgetCheck
from sweep.search.objectives import costs
from sweep.search.pruners import Rung, promotable, rivals
from sweep.search.replicates import next_repeat
from sweep.search.trial_table import Trials, pauses


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
    return goes_on(config, trials, number) and BudgetCheck(config, trials, live, 0.0).fits()


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
    room = BudgetCheck(config, trials, live, hours)
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

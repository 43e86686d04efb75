"""What a free slot does next: a new trial, a paused one that has become good enough, or a repeat of one of the best.

Pure functions of config and records, so that the simulator and a driver that was killed decide as the driver does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.budget import BudgetCheck
from sweep.search.objectives import compared
from sweep.search.replicates import knows_noise, next_repeat
from sweep.search.rungs import first_design
from sweep.search.trial_table import Trials


@dataclass(frozen=True)
class Step:
    """What to do: resume trial `number`, repeat it with `seed`, or start a new one."""

    kind: Literal["new", "resume", "repeat"]
    number: int = -1
    seed: int = 0


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
    if room.ending and not knows_noise(trials.finalists) and (step := _repeat(config, trials, room)) is not None:
        return step
    if (step := _search(config, trials, live, room, full=full)) is not None:
        return step
    if not live and room.below(1.0) and (last := _unfinished(config, trials)) is not None and room.fits(trials[last]):
        return Step("resume", last)
    if (step := _repeat(config, trials, room)) is not None:
        return step
    if room.share < 1 and knows_noise(trials.finalists):
        return _search(config, trials, live, BudgetCheck(config, trials, live, hours, share=1), full=full)
    return None


def _repeat(config: SweepConfig, trials: Trials, room: BudgetCheck) -> Step | None:
    """A repeat of one of the best, where it can change the choice and there is room for it."""
    if not config.repeats.share or len(config.objectives) > 1 or not room.takes_repeat():
        return None
    chosen = next_repeat(config.repeats, trials.finalists, config.train.run.seed)
    return chosen and Step("repeat", *chosen)


def _search(
    config: SweepConfig, trials: Trials, live: Collection[int], room: BudgetCheck, *, full: bool
) -> Step | None:
    """A new trial or one that goes on, where there is room for it."""
    if not room.searching:
        return None
    takes_new = not full and room.takes_new()
    if takes_new and trials.settled < first_design(config):
        return Step("new")
    steps = _by_need(config, trials, live) if takes_new else _deserving(config, trials)
    return next((step for step in steps if step.kind == "new" or room.fits(trials[step.number])), None)


def _unfinished(config: SweepConfig, trials: Trials) -> int | None:
    """Which paused trial is brought to its end after the search: the best of all; any, where there is no winner."""
    if trials.complete:
        leader = trials.leader if len(config.objectives) == 1 else None
        return leader.number if leader is not None and leader.state is State.PAUSED else None
    waiting = [(-epoch, *rung.waiting[0]) for epoch, rung in compared(config, trials) if rung.waiting]
    return min(waiting)[-1] if waiting else None


def worst_paused(config: SweepConfig, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial to give up, where more are paused than shall be kept; None where there is room."""
    trials = Trials.of(config, records)
    if len(trials.paused) <= config.pruner.paused:
        return None
    *_, worst = max((-epoch, *rung.waiting[-1]) for epoch, rung in compared(config, trials) if rung.waiting)
    return trials[worst]


def _by_need(config: SweepConfig, trials: Trials, live: Collection[int]) -> list[Step]:
    """A new trial and the best that waits at each rung, what is needed most first.

    All stretches between rungs are to get as many epochs; the first design, which is there to learn from, counts half.
    """
    running = Counter(trials.stops[number] for number in live if trials[number].repeats is None)
    rungs = compared(config, trials)
    half = min(len(rungs[0][1].arrived), first_design(config)) / 2
    needs: list[tuple[float, int, Step]] = []
    before = 0
    step: Step | None = Step("new")
    for index, (epoch, rung) in enumerate(rungs):
        if step is not None:
            handed = len(rung.arrived) + running[epoch] - (0 if index else half)
            needs.append(((handed + 1) * (epoch - before), index, step))
        before, step = epoch, Step("resume", rung.waiting[0][1]) if rung.waiting else None
    return [step for *_, step in sorted(needs, key=lambda need: need[:2])]


def _deserving(config: SweepConfig, trials: Trials) -> list[Step]:
    """The paused trials that deserve to go on where no new ones begin: the furthest first, of equals the best."""
    reduction = config.pruner.reduction
    waiting = [(-epoch, *place) for epoch, rung in compared(config, trials) for place in rung.deserving(reduction)]
    return [Step("resume", number) for *_, number in sorted(waiting)]

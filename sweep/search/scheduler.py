"""What a free slot does next: start a new trial, resume a paused one, or repeat one of the best with another seed.

Pure functions of config and records, so that the simulator, and a driver after it was killed, decide as the driver
does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from sweep.core.config import SearchConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.budget import BudgetCheck
from sweep.search.objectives import ranked_rungs
from sweep.search.replicates import knows_noise, next_replicate
from sweep.search.rungs import first_design
from sweep.search.trial_table import TrialTable


@dataclass(frozen=True)
class Action:
    """Resume trial `number`, repeat it with `seed`, or start a new trial."""

    kind: Literal["new", "resume", "repeat"]
    number: int = -1
    seed: int = 0


def next_action(
    config: SearchConfig, records: Sequence[TrialRecord], live: Collection[int], hours: float, *, full: bool = False
) -> Action | None:
    """What a free slot does next; None if there is nothing to do until a running trial has reported more.

    Args:
        config: the sweep.
        records: all trials, by number.
        live: numbers of those that are running.
        hours: for which this call of the sweep has been running.
        full: whether all configurations of a finite space have been tried.
    """
    trials = TrialTable.of(config, records)
    budget = BudgetCheck(config, trials, live, hours)
    noise_known = knows_noise(trials.finalists)
    if budget.search_ends_soon and not noise_known and (action := _replicate(config, trials, budget)) is not None:
        return action
    if (action := _search(config, trials, live, budget, full=full)) is not None:
        return action
    last = _unfinished(config, trials) if not live and budget.time_below(1.0) else None
    if last is not None and budget.fits(trials[last]):
        return Action("resume", last)
    if (action := _replicate(config, trials, budget)) is not None:
        return action
    if budget.search_share < 1 and noise_known:  # no further repeat would change the winner: the rest is searched with
        return _search(config, trials, live, BudgetCheck(config, trials, live, hours, search_share=1), full=full)
    return None


def _replicate(config: SearchConfig, trials: TrialTable, budget: BudgetCheck) -> Action | None:
    """A repeat of one of the best, where it may change the winner and the budget allows it."""
    if not config.repeats.share or len(config.objectives) > 1 or not budget.allows_repeat():
        return None
    chosen = next_replicate(config.repeats, trials.finalists, config.train.run.seed)
    return chosen and Action("repeat", *chosen)


def _search(
    config: SearchConfig, trials: TrialTable, live: Collection[int], budget: BudgetCheck, *, full: bool
) -> Action | None:
    """A new or a paused trial, where the budget allows it."""
    if not budget.allows_search:
        return None
    allows_new = not full and budget.allows_new()
    if allows_new and trials.settled < first_design(config):
        return Action("new")
    actions = _balanced(config, trials, live) if allows_new else _promotable(config, trials)
    return next((a for a in actions if a.kind == "new" or budget.fits(trials[a.number])), None)


def _unfinished(config: SearchConfig, trials: TrialTable) -> int | None:
    """The paused trial to complete after the search: the best of all or, while none is complete, the furthest."""
    if trials.complete:
        leader = trials.leader if len(config.objectives) == 1 else None
        return leader.number if leader is not None and leader.state is State.PAUSED else None
    furthest = [(-epoch, *rung.paused[0]) for epoch, rung in ranked_rungs(config, trials) if rung.paused]
    return min(furthest)[-1] if furthest else None


def worst_paused(config: SearchConfig, records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial to stop for good if more than `pruner.paused` are paused; None otherwise."""
    trials = TrialTable.of(config, records)
    if len(trials.paused) <= config.pruner.paused:
        return None
    *_, worst = max((-epoch, *rung.paused[-1]) for epoch, rung in ranked_rungs(config, trials) if rung.paused)
    return trials[worst]


def _balanced(config: SearchConfig, trials: TrialTable, live: Collection[int]) -> list[Action]:
    """A new trial and the best one paused at each rung, ordered so that all intervals between rungs get equal epochs.

    The first design, which the model learns from, counts half.
    """
    heading = Counter(trials.next_rung[number] for number in live if trials[number].replicate_of is None)
    rungs = ranked_rungs(config, trials)
    half = min(len(rungs[0][1].reached), first_design(config)) / 2
    candidates: list[tuple[float, int, Action]] = []  # epochs of the interval after one trial more, its index, action
    previous = 0
    action: Action | None = Action("new")
    for index, (epoch, rung) in enumerate(rungs):
        if action is not None:
            trained = len(rung.reached) + heading[epoch] - (0 if index else half)
            candidates.append(((trained + 1) * (epoch - previous), index, action))
        previous, action = epoch, Action("resume", rung.paused[0][1]) if rung.paused else None
    return [action for *_, action in sorted(candidates, key=lambda c: c[:2])]


def _promotable(config: SearchConfig, trials: TrialTable) -> list[Action]:
    """The paused trials in the best 1/reduction of their rung, when no new ones start: furthest first, then best."""
    rungs = ranked_rungs(config, trials)
    ranked = [(-epoch, *entry) for epoch, rung in rungs for entry in rung.promotable(config.pruner.reduction)]
    return [Action("resume", number) for *_, number in sorted(ranked)]

"""Second objectives, limits and Pareto dominance. Pure functions."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sweep.core.config import SearchConfig
from sweep.core.sections import LimitsConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.rungs import Rung
from sweep.search.trial_table import TrialTable
from trainer.config import TrainConfig

_SPEED = "images_per_second"


def second_value(objective: str, record: TrialRecord) -> float | None:
    """The value of a second objective, as it is shown; None before the first report."""
    return record.metrics.get(objective if objective == _SPEED else f"val/{objective}")


def costs(objective: str, records: Iterable[TrialRecord]) -> dict[int, float]:
    """A second objective, so that less is better, by number of the trial; speed counts in logarithms."""
    found: dict[int, float] = {}
    for r in records:
        value = second_value(objective, r)
        if value is not None and math.isfinite(value):
            found[r.number] = -math.log(max(value, 1e-9)) if objective == _SPEED else value
    return found


def pareto_front(objective: str, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that no other beats in both NME and a second objective, by NME."""
    cost = costs(objective, records)
    done = [r for r in records if r.state is State.COMPLETE and r.best_nme is not None and r.number in cost]
    front: list[TrialRecord] = []
    for r in sorted(done, key=lambda r: (r.best_nme or math.inf, cost[r.number], r.number)):
        if not front or cost[r.number] < cost[front[-1].number]:
            front.append(r)
    return front


def ranked_rungs(config: SearchConfig, trials: TrialTable) -> list[tuple[int, Rung]]:
    """The rungs by epoch, ascending, ranked by NME; with a second objective, by how many trials dominate each."""
    if len(config.objectives) == 1:
        return list(trials.rungs.items())
    cost = costs(config.objectives[1], trials)
    found = []
    for epoch, rung in trials.rungs.items():
        ranks = dict(_dominance_rank(rung.reached, cost))
        found.append((epoch, Rung.of(ranks, {number for _, number in rung.paused})))
    return found


def _dominance_rank(reached: Iterable[tuple[float, int]], cost: Mapping[int, float]) -> Iterable[tuple[int, float]]:
    """By number, how many trials are better in both NME and cost; a fraction below one breaks ties by NME.

    Args:
        reached: (NME, number) of the trials to rank, ascending.
        cost: the second objective by number, lower is better.
    """
    seen: list[float] = []  # costs of those with a lower NME, ascending
    for nme, equals in groupby(reached, lambda entry: entry[0]):
        own = [(number, cost.get(number, math.inf)) for _, number in equals]
        for number, c in own:
            yield number, bisect_left(seen, c) + nme / (nme + 1) if math.isfinite(nme) else math.inf
        for _, c in own:
            insort(seen, c)


def broken_limit(limits: LimitsConfig, metrics: Mapping[str, float], config: TrainConfig) -> str | None:
    """The limit that a trial exceeds, such as 'memory_gb 5.1, the limit is 4'; None if it keeps all limits.

    Args:
        limits: of the sweep.
        metrics: of the trial's last epoch.
        config: of the trial; its batch size and speed give the seconds of a step.
    """
    speed = metrics.get("images_per_second", math.nan)
    step = config.optim.batch_size / speed if speed else math.inf
    found = {"memory_gb": metrics.get("memory_gb", math.nan), "step_seconds": step}
    for key, limit in limits.model_dump().items():
        if limit is not None and found[key] > limit:
            return f"limits.{key} = {limit:g}: it takes {found[key]:.3g}"
    return None

"""What is minimised besides the NME, which limits hold, and who dominates whom. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from sweep.core.config import LimitsConfig, SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.rungs import Rung
from sweep.search.trial_table import Trials
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


def compared(config: SweepConfig, trials: Trials) -> list[tuple[int, Rung]]:
    """Who has come to each rung, by its epoch, rising: in the order of NME, or of how many are better in both."""
    if len(config.objectives) == 1:
        return list(trials.rungs.items())
    cost = costs(config.objectives[1], trials)
    found = []
    for epoch, rung in trials.rungs.items():
        standings = dict(_dominated(rung.arrived, cost))
        waiting = {number for _, number in rung.waiting}
        found.append((epoch, Rung.of(standings, waiting)))
    return found


def _dominated(arrived: Iterable[tuple[float, int]], cost: Mapping[int, float]) -> Iterable[tuple[int, float]]:
    """How many trials are better than each in NME and in cost; of equals, the NME decides by a part of one.

    Args:
        arrived: NME and number of those that are compared, rising.
        cost: by number.
    """
    seen: list[float] = []  # costs of those with a lower NME, rising
    for nme, equals in groupby(arrived, lambda arrival: arrival[0]):
        own = [(number, cost.get(number, math.inf)) for _, number in equals]
        for number, c in own:
            yield number, bisect_left(seen, c) + nme / (nme + 1) if math.isfinite(nme) else math.inf
        for _, c in own:
            insort(seen, c)


def broken_limit(limits: LimitsConfig, metrics: Mapping[str, float], config: TrainConfig) -> str | None:
    """Why a trial may not go on, such as 'memory_gb 5.1, the limit is 4'; None where it keeps all limits.

    Args:
        limits: of the sweep.
        metrics: of the trial's last epoch.
        config: of the trial; its batch size tells how long a pass takes.
    """
    speed = metrics.get("images_per_second", math.nan)
    step = config.optim.batch_size / speed if speed else math.inf
    found = {"memory_gb": metrics.get("memory_gb", math.nan), "step_seconds": step}
    for key, limit in limits.model_dump().items():
        if limit is not None and found[key] > limit:
            return f"limits.{key} = {limit:g}: it takes {found[key]:.3g}"
    return None

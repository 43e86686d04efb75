"""How other tools search, on the same recorded curves: Optuna asked directly, trials stopped and told as they do it."""

from __future__ import annotations

import bisect
import heapq
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import numpy as np
import optuna

from sweep.curves import Task
from sweep.sampling import distribution
from sweep.simulation import History, best_so_far
from sweep.space import Dimension


class Rule(Protocol):
    """Who stops trials early. `told` is how a stopped one is told to Optuna."""

    told: optuna.trial.TrialState

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool: ...


class Never:
    """Trains every trial to its end."""

    told = optuna.trial.TrialState.COMPLETE

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool:
        """Never."""
        return False


class RaysHalving:
    """Ray's ASHAScheduler with its defaults: grace period 1, reduction 4, one bracket; stopped ones are COMPLETE."""

    told = optuna.trial.TrialState.COMPLETE

    def __init__(self) -> None:
        self._rungs: dict[int, list[float]] = defaultdict(list)

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool:
        """At 1, 4, 16, ...: whether it is worse than the best quarter of those that came there so far, itself among."""
        if not math.log(epoch, 4).is_integer():
            return False
        seen = self._rungs[epoch]
        cutoff = float(np.quantile(seen, 0.25)) if seen else math.inf
        bisect.insort(seen, nme)
        return nme > cutoff


class OptunasMedian:
    """Optuna's default pruner; stopped ones are PRUNED."""

    told = optuna.trial.TrialState.PRUNED

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool:
        """What the study's own pruner says."""
        return trial.should_prune()


def run_peer(
    dimensions: tuple[Dimension, ...],
    task: Task,
    slots: int,
    seed: int,
    epochs: int,
    rule: Rule,
    sampler: Callable[[int], optuna.samplers.BaseSampler],
) -> History:
    """One search by another tool, until so many epochs are spent; it would choose what has the lowest NME."""
    study = optuna.create_study(sampler=sampler(seed))
    distributions = {d.key: distribution(d) for d in dimensions}
    history, lowest = History(), math.inf
    queue: list[tuple[float, int, int]] = []
    live: dict[int, tuple[optuna.Trial, np.ndarray]] = {}
    order, now, chosen = 0, 0.0, math.nan

    def start() -> None:
        nonlocal order
        trial = study.ask(distributions)
        live[trial.number] = trial, best_so_far(task, dict(trial.params), seed, trial.number)
        heapq.heappush(queue, (now + task.seconds(1) / 3600, order, trial.number))
        order += 1

    for _ in range(slots):
        start()
    done: dict[int, int] = defaultdict(int)
    while len(history.epochs) < epochs:
        now, _, number = heapq.heappop(queue)
        trial, curve = live[number]
        done[number] += 1
        if done[number] > len(curve):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            start()
            continue
        nme = float(curve[done[number] - 1])
        trial.report(nme, done[number])
        if nme < lowest:
            lowest, chosen = nme, task.true_nme(dict(trial.params))
        history.epochs.append(len(history.epochs) + 1)
        history.hours.append(now)
        history.found.append(lowest)
        history.true.append(chosen)
        if done[number] == task.epochs:
            study.tell(trial, nme)
            start()
        elif rule.stops(trial, done[number], nme):
            study.tell(trial, nme if rule.told is optuna.trial.TrialState.COMPLETE else None, state=rule.told)
            start()
        else:
            heapq.heappush(queue, (now + task.seconds(done[number] + 1) / 3600, order, number))
            order += 1
    return history

"""How other tools search, on the same recorded curves: Optuna asked directly, trials stopped and told as they do it."""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
import optuna

from sweep.core.search_space import Dimension
from sweep.core.trial import State, TrialRecord
from sweep.search.sampling.sampler import distribution
from sweep.simulation.simulator import Clock, History, play
from sweep.simulation.surrogate import SurrogateTask


class Rule(Protocol):
    """Who stops trials early. `told` is how a stopped one is told to Optuna, whose study may have a pruner for it."""

    told: optuna.trial.TrialState

    def pruner(self, epochs: int) -> optuna.pruners.BasePruner | None: ...

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool: ...


class _Alone:
    """A rule that asks no pruner of the study: that has Optuna's default."""

    def pruner(self, epochs: int) -> optuna.pruners.BasePruner | None:
        """None."""
        return None


class Never(_Alone):
    """Trains every trial to its end."""

    told = optuna.trial.TrialState.COMPLETE

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool:
        """Never."""
        return False


class RaysHalving(_Alone):
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


class OptunasMedian(_Alone):
    """Optuna's default pruner; stopped ones are PRUNED."""

    told = optuna.trial.TrialState.PRUNED

    def stops(self, trial: optuna.Trial, epoch: int, nme: float) -> bool:
        """What the study's own pruner says."""
        return trial.should_prune()


class OptunasHyperband(OptunasMedian):
    """Optuna's hyperband from 1 epoch on, reduction 3."""

    def pruner(self, epochs: int) -> optuna.pruners.BasePruner | None:
        """Hyperband for trainings of so many epochs."""
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=3)


class Peer:
    """Optuna asked directly, whose trials a rule stops; takes the controller's place in a simulation.

    Args:
        dimensions: the search space.
        epochs: of a whole training.
        rule: who stops trials.
        sampler: who suggests them.
    """

    def __init__(
        self, dimensions: tuple[Dimension, ...], epochs: int, rule: Rule, sampler: optuna.samplers.BaseSampler
    ) -> None:
        pruner = rule.pruner(epochs)
        self._study = optuna.create_study(study_name="peer", sampler=sampler, pruner=pruner)  # brackets depend on it
        self._distributions = {d.key: distribution(d) for d in dimensions}
        self._epochs, self._rule = epochs, rule
        self._trials: dict[int, optuna.Trial] = {}
        self._records: dict[int, TrialRecord] = {}

    def next_trial(self) -> TrialRecord:
        """A new one, always."""
        trial = self._study.ask(self._distributions)
        self._trials[trial.number] = trial
        self._records[trial.number] = TrialRecord(trial.number, dict(trial.params))
        return self._records[trial.number]

    def record(self, number: int) -> TrialRecord:
        """What is known of one trial."""
        return self._records[number]

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Tells Optuna an epoch; whether the trial goes on."""
        trial, record, nme = self._trials[number], self._records[number], metrics["best_nme"]
        trial.report(nme, epoch)
        self._records[number] = replace(record, curve={**record.curve, epoch: nme})
        if epoch == self._epochs or not self._rule.stops(trial, epoch, nme):
            return True
        value = nme if self._rule.told is optuna.trial.TrialState.COMPLETE else None
        self._study.tell(trial, value, state=self._rule.told)
        return False

    def end(self, number: int, state: State, reason: str | None = None) -> None:
        """Tells Optuna that a trial is complete, or has failed."""
        if state is State.COMPLETE:
            self._study.tell(self._trials[number], self._records[number].best_nme)
        else:
            self._study.tell(self._trials[number], state=optuna.trial.TrialState.FAIL)


def run_peer(
    dimensions: tuple[Dimension, ...],
    task: SurrogateTask,
    slots: int,
    seed: int,
    epochs: int,
    rule: Rule,
    sampler: Callable[[int], optuna.samplers.BaseSampler],
) -> History:
    """One search by another tool, until so many epochs are spent; it would choose what has the lowest NME."""
    peer = Peer(dimensions, task.epochs, rule, sampler(seed))
    return play(peer, task, slots, seed, _lowest, Clock(), epochs=epochs)


def _lowest(before: TrialRecord | None, reported: TrialRecord) -> TrialRecord:
    return reported if before is None else min(before, reported, key=lambda r: r.best_nme or math.inf)

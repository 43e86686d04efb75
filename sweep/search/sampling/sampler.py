"""Suggests the next configuration, with this project's sampler or one of Optuna's.

A suggestion is a function of the seed, the trial's number and the trials in the study. Optuna's samplers see what ours
learns from: each trial that has reached the first rung as complete, with the score of its rank as its value.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.core.config import SearchConfig
from sweep.core.search_space import Dimension, active, filled
from sweep.core.trial import Params
from sweep.search.objectives import ranked_rungs
from sweep.search.rungs import first_design
from sweep.search.sampling import cma_es, rank_gp
from sweep.search.sampling.unit_cube import UnitCube
from sweep.search.trial_table import TrialTable

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_MODEL_ATTEMPTS = 5  # suggestions by the model before random ones: it may insist on a point that was tried
_MIN_LEARNT = 1 / 2  # of the first design, before the model suggests anything
_VISIBLE = 2000  # trials at most that one of Optuna's samplers sees, of which a suggestion takes some milliseconds


class _Snapshot(optuna.storages.InMemoryStorage):
    """A storage whose trials, but for the one that is sampled, are given."""

    def __init__(self, history: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._history = history

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._history if states is None or trial.state in states]


class _Tpe(optuna.samplers.TPESampler):
    """Samples from a given space, which Optuna would infer from all trials."""

    def __init__(self, space: Mapping[str, BaseDistribution], **settings: Any) -> None:
        super().__init__(**settings)
        self._given = {key: space[key] for key in sorted(space) if not space[key].single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._given


class Sampler:
    """Suggests configurations.

    Args:
        config: the sweep.
        trials: the table of all trials, updated during the sweep.
    """

    def __init__(self, config: SearchConfig, trials: TrialTable) -> None:
        self._config, self._trials = config, trials
        self._cube = UnitCube(config.dimensions)
        self._distributions = {d.key: distribution(d) for d in config.dimensions}
        self._points = self._cube.points([])  # of trials by number, extended when needed
        self._frozen_trials: dict[int, FrozenTrial] = {}  # as Optuna's samplers see them

    def suggest(self, number: int, fixed: Params, attempt: int = 0) -> Params:
        """The configuration of trial `number`; `fixed` gives a part of it.

        The same study gives the same suggestion; another `attempt`, another one.
        """
        name, seed = self._config.sampler.name, derived_seed(self._config.seed, number, attempt)
        found: Params | None = None
        if name == "rank_gp" and number < first_design(self._config) and attempt == 0:
            found = rank_gp.design(self._cube, number, self._config.seed)
        elif not fixed and attempt < _MODEL_ATTEMPTS and not self._is_random(number):
            found = self._model_suggestion(name, seed)
        if found is None:
            found = self._ask(optuna.samplers.RandomSampler(seed=seed), ())
        return active(self._config.dimensions, found | fixed)

    def _is_random(self, number: int) -> bool:
        """Whether a trial belongs to the random share."""
        share = self._config.sampler.random_share
        return random.Random(derived_seed(self._config.seed, number)).random() < share

    def _model_suggestion(self, name: str, seed: int) -> Params | None:
        """A suggestion learnt from the trials; None if there is nothing new, or the sampler does not learn."""
        if name in ("random", "grid"):
            return None
        scores = rank_gp.score([rung.reached for _, rung in ranked_rungs(self._config, self._trials)])
        if name not in ("rank_gp", "cmaes"):
            return self._ask(self._optuna_sampler(name, seed), self._history(scores))
        if len(scores.numbers) < _MIN_LEARNT * first_design(self._config):
            return None
        new = [self._trials[n].params for n in range(len(self._points), len(self._trials))]
        self._points = np.concatenate([self._points, self._cube.points(new)])
        if name == "cmaes":
            return cma_es.propose(self._cube, self._points, scores.by_number(), seed)
        return rank_gp.propose(self._cube, self._points, scores, self._trials.early, seed)

    def _optuna_sampler(self, name: str, seed: int) -> optuna.samplers.BaseSampler:
        startup = first_design(self._config)
        if name == "tpe":
            space = self._distributions
            return _Tpe(space, seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)

    def _ask(self, sampler: optuna.samplers.BaseSampler, history: Sequence[FrozenTrial]) -> Params:
        """Samples a value for every dimension with one of Optuna's samplers."""
        study = optuna.create_study(storage=_Snapshot(history), sampler=sampler)
        return dict(study.ask(dict(self._distributions)).params)

    def _history(self, scores: rank_gp.Scores) -> list[FrozenTrial]:
        """The trials as Optuna's samplers see them, by number."""
        values: dict[int, float | None] = {**dict.fromkeys(self._trials.early), **scores.thinned(_VISIBLE).by_number()}
        return [self._frozen_trial(number, values[number]) for number in sorted(values)]

    def _frozen_trial(self, number: int, value: float | None) -> FrozenTrial:
        if number not in self._frozen_trials:
            params = filled(self._config.dimensions, self._trials[number].params)
            self._frozen_trials[number] = _frozen(number, params, self._distributions)
        trial = self._frozen_trials[number]
        trial.state, trial.value = (TrialState.RUNNING if value is None else TrialState.COMPLETE), value
        return trial


def _frozen(number: int, params: Params, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    return FrozenTrial(
        number=number + 1,  # 0 is the one being sampled
        trial_id=number + 1,
        state=TrialState.RUNNING,
        value=None,
        params=params,
        distributions=dict(distributions),
        datetime_start=None,
        datetime_complete=None,
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def derived_seed(*parts: int) -> int:
    """A seed derived from all parts by hashing."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "big")


def distribution(d: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    if d.kind == "choice":
        return CategoricalDistribution(d.choices)
    if d.kind in ("int", "log_int"):
        return IntDistribution(int(d.low), int(d.high), log=d.kind == "log_int")
    return FloatDistribution(d.low, d.high, log=d.kind == "log_uniform")

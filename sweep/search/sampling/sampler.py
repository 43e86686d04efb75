"""Who suggests the next configuration: the sampler of this project, or one of Optuna's by its name.

A suggestion is a function of the seed, the trial's number and what the study holds at that time. Optuna's samplers are
shown what ours learns from: every trial that has come to the first rung counts as complete, at its score by rank.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Container, Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.core.config import SweepConfig
from sweep.core.search_space import Dimension, active, filled
from sweep.core.trial import Params
from sweep.search.objectives import compared
from sweep.search.rungs import first_design
from sweep.search.sampling import cma_es, rank_gp
from sweep.search.sampling.unit_cube import UnitCube
from sweep.search.trial_table import Trials

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_OWN_ATTEMPTS = 5  # suggestions of the sampler before random ones: it may insist on a point that was tried
_LEARNS_FROM = 2  # one in so many of the first design, before anything but random draws is suggested
_SHOWN = 2000  # trials at most that one of Optuna's samplers sees, of which a suggestion takes some milliseconds


class _Shown(optuna.Study):
    """A study in memory whose past and space are given; asking it draws parameters."""

    past: Sequence[FrozenTrial] = ()
    space: Mapping[str, BaseDistribution] = {}

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self.past if states is None or t.state in states]


class _Tpe(optuna.samplers.TPESampler):
    """Takes the space as it is given, where Optuna looks for it in all trials."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if not isinstance(study, _Shown):
            return super().infer_relative_search_space(study, trial)
        return {key: study.space[key] for key in sorted(study.space) if not study.space[key].single()}


class Sampler:
    """Suggests configurations.

    Args:
        config: the sweep.
        trials: those that were begun, which change as the sweep goes on.
    """

    def __init__(self, config: SweepConfig, trials: Trials) -> None:
        self._config, self._trials = config, trials
        self._cube = UnitCube(config.dimensions)
        self._distributions = {d.key: distribution(d) for d in config.dimensions}
        self._points = self._cube.points([])  # of all trials, by number, as far as they were looked at
        self._forms: dict[int, FrozenTrial] = {}  # in which Optuna's samplers see trials, once they have seen them

    def suggest(self, number: int, fixed: Params, attempt: int = 0) -> Params:
        """The configuration of trial `number`, of which a part may be given; the same whenever that is asked.

        Another attempt gives another one.
        """
        name, seed = self._config.sampler.name, derived_seed(self._config.seed, number, attempt)
        found: Params | None = None
        if name == "rank_gp" and number < first_design(self._config) and attempt == 0:
            found = rank_gp.design(self._cube, number, self._config.seed)
        elif not fixed and attempt < _OWN_ATTEMPTS and not self._is_drawn(number):
            found = self._learnt(name, seed)
        if found is None:
            found = self._ask(build_sampler("random", seed), ())
        return active(self._config.dimensions, found | fixed)

    def _is_drawn(self, number: int) -> bool:
        """Whether a trial is of the share that is drawn at random."""
        share = self._config.sampler.random_share
        return random.Random(derived_seed(self._config.seed, number)).random() < share

    def _learnt(self, name: str, seed: int) -> Params | None:
        """What is suggested by what is known of trials; None where nothing new is, or by who does not learn."""
        if name in ("random", "grid"):
            return None
        scores = rank_gp.score([rung.arrived for _, rung in compared(self._config, self._trials)])
        if name not in ("rank_gp", "cmaes"):
            return self._ask(build_sampler(name, seed, first_design(self._config)), self._shown(scores))
        if len(scores.numbers) * _LEARNS_FROM < first_design(self._config):
            return None
        new = [self._trials[n].params for n in range(len(self._points), len(self._trials))]
        self._points = np.concatenate([self._points, self._cube.points(new)])
        if name == "cmaes":
            return cma_es.propose(self._cube, self._points, scores.by_number(), seed)
        return rank_gp.propose(self._cube, self._points, scores, self._trials.early, seed)

    def _ask(self, sampler: optuna.samplers.BaseSampler, past: Sequence[FrozenTrial]) -> Params:
        """What one of Optuna's samplers draws to whom this past is shown: a value for every dimension."""
        storage = optuna.storages.InMemoryStorage()
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "shown")
        study = _Shown("shown", storage, sampler, optuna.pruners.NopPruner())
        study.past, study.space = past, self._distributions
        return dict(study.ask(dict(self._distributions)).params)

    def _shown(self, scores: rank_gp.Scores) -> list[FrozenTrial]:
        """The trials as Optuna's samplers want them, by number."""
        values: dict[int, float | None] = {**dict.fromkeys(self._trials.early), **scores.thinned(_SHOWN).by_number()}
        return [self._form(number, values[number]) for number in sorted(values)]

    def _form(self, number: int, value: float | None) -> FrozenTrial:
        if number not in self._forms:
            params = filled(self._config.dimensions, self._trials[number].params)
            self._forms[number] = _frozen(number, params, self._distributions)
        form = self._forms[number]
        form.state, form.value = (TrialState.RUNNING if value is None else TrialState.COMPLETE), value
        return form


def _frozen(number: int, params: Params, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    return FrozenTrial(
        number=number + 1,  # 0 is the one that is drawn
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
    """A seed that depends on all parts and resembles that of no other."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "big")


def build_sampler(name: str, seed: int, startup: int = 1) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name, which draws so many trials at random before it learns."""
    if name == "tpe":
        return _Tpe(seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
    if name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.RandomSampler(seed=seed)


def distribution(d: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    if d.kind == "choice":
        return CategoricalDistribution(d.choices)
    if d.kind in ("int", "log_int"):
        return IntDistribution(int(d.low), int(d.high), log=d.kind == "log_int")
    return FloatDistribution(d.low, d.high, log=d.kind == "log_uniform")

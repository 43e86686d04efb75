"""What a sampler is shown of a sweep, and what it suggests: a trial that was stopped stands at what it promised.

Optuna's samplers learn from complete trials, or sort those that were stopped behind them. Where most are stopped, that
leaves most of what is known unused. Here every trial with a learning curve counts as complete, at the NME that it is
expected to end at, and in logarithms, in which the errors of landmarks differ evenly.

Legend: N trials, those with the numbers 0 to N - 1; in arrays of them, NaN stands for those without a value.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from bisect import insort
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.core.config import SamplerConfig, SweepConfig
from sweep.core.search_space import Dimension, filled
from sweep.core.trial import Params, State, TrialRecord, keep
from sweep.search.curve_forecast import Promises, by_number
from sweep.search.objectives import costs

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_OWN_ATTEMPTS = 5  # suggestions of the sampler before random ones: it may insist on a point that was tried
_FAR = 1.0  # log NME above the median: how much worse than that a trial is says nothing about where the good ones are
_SHOWN = 2000  # trials at most, of which a suggestion takes some milliseconds
_GOOD = 25  # the best, all of which are shown: Optuna's TPE takes no more for good
_LOT = 11  # tells the lots of trials from seeds of suggestions
_AUGMENTATION = 0.05  # share of the plain sum in the augmented Chebyshev norm (Knowles 2006, section III)


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


class Past:
    """What a sampler is shown of a sweep: its trials and what they promise, kept up to date.

    Of more than `_SHOWN` trials it sees the best, and a seeded sample of the others, so that a suggestion costs no more
    after ten thousand.
    """

    def __init__(self, config: SweepConfig, records: Iterable[TrialRecord] = ()) -> None:
        self._config = config
        self._distributions = {d.key: distribution(d) for d in config.dimensions}
        self._promises = Promises(config.train.optim.epochs)
        self._records: dict[int, TrialRecord] = {}
        self._bad: dict[int, TrialRecord] = {}
        self._usable: dict[int, TrialRecord] = {}  # all but the failed ones
        self._failed: dict[int, TrialRecord] = {}
        self._drawn: list[tuple[int, int]] = []  # lots of these and their numbers, rising
        self._forms: dict[int, FrozenTrial] = {}  # in which the sampler sees them, once it has seen them
        for record in records:
            self.put(record)

    def put(self, record: TrialRecord) -> None:
        """Takes in a new trial, or what is known of one by now."""
        number, usable = record.number, record.state is not State.FAILED
        self._promises.put(record, counts=record.state not in _BAD)
        if usable != (number in self._usable):
            lot = derived_seed(self._config.seed, number, _LOT), number
            if usable:
                insort(self._drawn, lot)
            else:
                self._drawn.remove(lot)
        self._records[number] = record
        keep(self._bad, record, record.state in _BAD)
        keep(self._usable, record, usable)
        keep(self._failed, record, not usable)

    def values(self, weight: float) -> dict[int, float]:
        """See `shown_values`."""
        return by_number(self._values(weight))

    def _values(self, weight: float) -> NDArray[np.float64]:
        """The same, (N,)."""
        found = _clipped(self._promises.all_ends())
        if len(self._config.objectives) > 1:
            second = np.full(len(found), np.nan)
            cost = costs(self._config.objectives[1], self._records.values())
            second[list(cost)] = list(cost.values())
            found = _weighed(found, second, weight)
        found[list(self._bad)] = 0.0 if np.isnan(found).all() else np.nanmax(found)
        return found

    def shown(self, weight: float) -> list[FrozenTrial]:
        """The trials as Optuna's samplers want them, by number; `weight` is of the first objective."""
        values = self._values(weight)
        return [self._form(number, float(values[number])) for number in self._chosen(values)]

    def _chosen(self, values: NDArray[np.float64]) -> Iterable[int]:
        if len(self._usable) <= _SHOWN:
            return self._usable
        values = values.copy()
        values[list(self._failed)] = np.nan
        return sorted({*_lowest(values, _GOOD), *(number for _, number in self._drawn[: _SHOWN - _GOOD])})

    def _form(self, number: int, value: float) -> FrozenTrial:
        if number not in self._forms:
            params = filled(self._config.dimensions, self._records[number].params)
            self._forms[number] = _frozen(number, params, self._distributions)
        form = self._forms[number]
        form.state, form.value = (TrialState.RUNNING, None) if math.isnan(value) else (TrialState.COMPLETE, value)
        return form


def draw(config: SweepConfig, records: Past | Sequence[TrialRecord], number: int, attempt: int = 0) -> Params:
    """What the sampler suggests for trial `number` to one who knows these trials; the same whenever it is asked.

    A share of the trials is drawn at random all the same (BOHB, Falkner et al., ICML 2018, section 4): what looks best
    after the first epoch need not be best in the end, and a sampler that has seen nothing else cannot know.

    Args:
        config: the sweep.
        records: all trials before; failed ones are not shown.
        number: of the new trial, part of the seed.
        attempt: another one gives another suggestion.
    """
    chance = random.Random(derived_seed(config.seed, number))
    at_random = chance.random() < config.sampler.random_share or attempt >= _OWN_ATTEMPTS
    sampler = SamplerConfig(name="random") if at_random else config.sampler
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "shown")
    seed = derived_seed(config.seed, number, attempt)
    study = _Shown("shown", storage, build_sampler(sampler, seed), optuna.pruners.NopPruner())
    if sampler.name in ("tpe", "gp"):
        past = records if isinstance(records, Past) else Past(config, records)
        study.past = past.shown(chance.random())
    study.space = {d.key: distribution(d) for d in config.dimensions}
    return dict(study.ask(dict(study.space)).params)


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


def shown_values(config: SweepConfig, records: Sequence[TrialRecord], weight: float) -> dict[int, float]:
    """What a sampler is told to minimise, by number of the trial; running ones without a report have none.

    Trials that diverged or broke a limit are as bad as the worst. With two objectives they are weighed against each
    other, `weight` for the first (ParEGO, Knowles, IEEE TEC 2006), so that draws of many weights spread over the front.
    """
    return Past(config, records).values(weight)


_BAD = (State.DIVERGED, State.INFEASIBLE)


def _clipped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    return np.minimum(values, np.median(known) + _FAR) if len(known) else values


def _lowest(values: NDArray[np.float64], count: int) -> list[int]:
    """The numbers of the lowest values; of equals the lowest numbers."""
    count = min(count, int(np.count_nonzero(~np.isnan(values))))
    if not count:
        return []
    numbers = np.flatnonzero(values <= np.partition(values, count - 1)[count - 1])
    return numbers[np.argsort(values[numbers], kind="stable")[:count]].tolist()


def _weighed(first: NDArray[np.float64], second: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    a, b = _to_unit(first), _to_unit(np.where(np.isnan(first), np.nan, second))
    a, b = weight * a, (1 - weight) * np.where(np.isnan(b), 1.0, b)
    return np.maximum(a, b) + _AUGMENTATION * (a + b)


def _to_unit(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    return (values - low) / ((high - low) or 1.0)


def expected_ends(records: Sequence[TrialRecord], epochs: int) -> dict[int, float]:
    """The log NME at which each trial with a curve is expected to end, see `Promises`."""
    return Promises(epochs, records).ends()


def derived_seed(*parts: int) -> int:
    """A seed that depends on all parts and resembles that of no other."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "big")


def build_sampler(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name; of "grid" all trials are known, so what it would draw does not matter."""
    if config.name == "tpe":
        return _Tpe(seed=seed, n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True)
    if config.name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup_trials)
    return optuna.samplers.RandomSampler(seed=seed)


def distribution(d: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    if d.kind == "choice":
        return CategoricalDistribution(d.choices)
    if d.kind in ("int", "log_int"):
        return IntDistribution(int(d.low), int(d.high), log=d.kind == "log_int")
    return FloatDistribution(d.low, d.high, log=d.kind == "log_uniform")

"""What a sampler is shown of a sweep, and what it suggests: a trial that was stopped stands at what it promised.

Optuna's samplers learn from complete trials, or sort those that were stopped behind them. Where most are stopped, that
leaves most of what is known unused. Here every trial with a learning curve counts as complete, at the NME that it is
expected to end at, and in logarithms, in which the errors of landmarks differ evenly.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import warnings
from bisect import insort
from collections.abc import Container, Iterable, Mapping, Sequence
from statistics import median

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.config import SamplerConfig, SweepConfig
from sweep.objectives import costs
from sweep.promises import Promises
from sweep.records import State, TrialRecord, keep
from sweep.space import Dimension, Params, filled

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

    def values(self, weight: float) -> dict[int, float]:
        """See `shown_values`."""
        first = _clipped(self._promises.ends())
        if len(self._config.objectives) > 1:
            first = _weighed(first, costs(self._config.objectives[1], self._records.values()), weight)
        worst = max(first.values(), default=0.0)
        return first | dict.fromkeys(self._bad, worst)

    def shown(self, weight: float) -> list[FrozenTrial]:
        """The trials as Optuna's samplers want them, by number; `weight` is of the first objective."""
        values = self.values(weight)
        return [self._form(number, values.get(number)) for number in self._chosen(values)]

    def _chosen(self, values: Mapping[int, float]) -> Iterable[int]:
        if len(self._usable) <= _SHOWN:
            return self._usable
        best = heapq.nsmallest(_GOOD, (n for n in values if n in self._usable), key=lambda n: (values[n], n))
        return sorted({*best, *(number for _, number in self._drawn[: _SHOWN - _GOOD])})

    def _form(self, number: int, value: float | None) -> FrozenTrial:
        if number not in self._forms:
            params = filled(self._config.dimensions, self._records[number].params)
            self._forms[number] = _frozen(number, params, self._distributions)
        form = self._forms[number]
        form.state, form.value = TrialState.RUNNING if value is None else TrialState.COMPLETE, value
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


def _clipped(values: Mapping[int, float]) -> dict[int, float]:
    if not values:
        return {}
    ceiling = median(values.values()) + _FAR
    return {number: min(value, ceiling) for number, value in values.items()}


def _weighed(first: Mapping[int, float], second: Mapping[int, float], weight: float) -> dict[int, float]:
    a, b = _to_unit(first), _to_unit({n: second[n] for n in first if n in second})
    pairs = {n: (weight * a[n], (1 - weight) * b.get(n, 1.0)) for n in a}
    return {n: max(pair) + _AUGMENTATION * sum(pair) for n, pair in pairs.items()}


def _to_unit(values: Mapping[int, float]) -> dict[int, float]:
    low, high = min(values.values(), default=0.0), max(values.values(), default=1.0)
    return {n: (value - low) / ((high - low) or 1.0) for n, value in values.items()}


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

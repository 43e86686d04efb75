"""What a sampler is shown of a sweep, and what it suggests: a trial that was stopped stands at what it promised.

Optuna's samplers learn from complete trials, or sort those that were stopped behind them. Where most are stopped, that
leaves most of what is known unused. Here every trial with a learning curve counts as complete, at the NME that it is
expected to end at, and in logarithms, in which the errors of landmarks differ evenly.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
import warnings
from collections.abc import Container, Mapping, Sequence
from statistics import median

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.config import SamplerConfig, SweepConfig
from sweep.objectives import costs
from sweep.records import State, TrialRecord
from sweep.space import Dimension, Params, filled

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

_OWN_ATTEMPTS = 5  # suggestions of the sampler before random ones: it may insist on a point that was tried
_FAR = 1.0  # log NME above the median: how much worse than that a trial is says nothing about where the good ones are
_AUGMENTATION = 0.05  # share of the plain sum in the augmented Chebyshev norm (Knowles 2006, section III)


class _Shown(optuna.Study):
    """A study in memory whose past is given; asking it draws parameters."""

    past: Sequence[FrozenTrial] = ()

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [t for t in self.past if states is None or t.state in states]


def draw(config: SweepConfig, records: Sequence[TrialRecord], number: int, attempt: int = 0) -> Params:
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
    distributions = {d.key: distribution(d) for d in config.dimensions}
    if sampler.name in ("tpe", "gp"):
        values = shown_values(config, records, chance.random())
        study.past = [
            _frozen(r, values.get(r.number), filled(config.dimensions, r.params), distributions)
            for r in records
            if r.state is not State.FAILED
        ]
    return dict(study.ask(distributions).params)


def _frozen(
    r: TrialRecord, value: float | None, params: Params, distributions: Mapping[str, BaseDistribution]
) -> FrozenTrial:
    return FrozenTrial(
        number=r.number + 1,  # 0 is the one that is drawn
        trial_id=r.number + 1,
        state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
        value=value,
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
    ends = expected_ends([r for r in records if r.state not in _BAD], config.train.optim.epochs)
    first = _clipped(ends)
    if len(config.objectives) > 1:
        first = _weighed(first, costs(config.objectives[1], records), weight)
    worst = max(first.values(), default=0.0)
    return first | {r.number: worst for r in records if r.state in _BAD}


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
    """The log NME at which each trial with a curve is expected to end; a complete one ends at what it has.

    From its last epoch on, a curve is expected to fall as much as the median of those that went on from there, first
    to the next epoch at which trials stand, then from that one. Where none has gone on, it stays.
    """
    curves = {r.number: r.curve for r in records if r.best_nme is not None and 0 < r.best_nme < math.inf}
    stands = sorted({max(curve) for curve in curves.values()} | {epochs})
    fall = 0.0  # of the logarithm, from an epoch to the end
    falls = {epochs: fall}
    for here, later in reversed(list(itertools.pairwise(stands))):
        both = [math.log(c[later] / c[here]) for c in curves.values() if later in c and here in c]
        fall += median(both) if both else 0.0
        falls[here] = fall
    return {number: math.log(curve[max(curve)]) + falls[max(curve)] for number, curve in curves.items()}


def derived_seed(*parts: int) -> int:
    """A seed that depends on all parts and resembles that of no other."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, parts)).encode()).digest()[:4], "big")


def build_sampler(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of this name; of "grid" all trials are known, so what it would draw does not matter."""
    if config.name == "tpe":
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True
        )
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

"""The study: the truth about trials, in a database. The only place that knows Optuna.

Only the driver process touches it. Learning curves are kept in memory besides, so that a report costs one write. While
the database is away or locked, the driver waits for it: each of its steps can be taken again after half of it was.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, TypeVar

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from sweep.config import SamplerConfig, differences
from sweep.records import State, TrialRecord
from sweep.secrets import redact
from sweep.space import Dimension, Params

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
logger = logging.getLogger(__name__)

T = TypeVar("T")
_PATIENCE = 900.0  # seconds that the driver waits for a database that is away, before it gives up
_LONGEST_PAUSE = 15.0  # seconds between two attempts
_DECISIVE, _STATE, _REASON, _SECONDS = "decisive", "state", "reason", "seconds"


_TOLD = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


class _SamplersView(optuna.Study):
    """The study as samplers shall see it: a trial that diverged is as bad as the worst.

    Some of them leave out trials that are told as pruned, and would look for the best where everything diverges, since
    nothing seems to be known there; others would rank one that diverged late by the good values of its early epochs.
    """

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, None, use_cache)
        diverged = {t.number for t in trials if t.user_attrs.get(_STATE) == State.DIVERGED}
        if diverged:
            values = [v for t in trials if t.number not in diverged for v in t.intermediate_values.values()]
            worst = max(values, default=1.0)
            trials = [_as_complete(t, worst) if t.number in diverged else t for t in trials]
        return trials if states is None else [t for t in trials if t.state in states]


def _as_complete(trial: FrozenTrial, value: float) -> FrozenTrial:
    shown = copy.copy(trial)
    shown.state, shown.value = TrialState.COMPLETE, value
    return shown


class StudyMismatchError(ValueError):
    """A sweep of this name exists with another space or base config."""


class StudyStorageError(ValueError):
    """The study's database cannot be opened, or has been away for too long."""


class Study:
    """Suggests, records and remembers trials.

    Suggestions depend on the seed, the trial's number and what the study holds at that time, not on how often the
    driver was restarted. All that touches the database waits while it is away, and raises StudyStorageError when that
    takes too long.
    """

    def __init__(self, study: optuna.Study, space: tuple[Dimension, ...], sampler: SamplerConfig, seed: int) -> None:
        self._study, self._sampler, self._seed = study, sampler, seed
        self._view = _view(study)
        self._distributions = {d.key: distribution(d) for d in space}
        self._live = {t.number: self._adopt(t) for t in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
        self._records = {t.number: _record(t) for t in study.get_trials(states=_STARTED)}
        self._curves = {r.number: r.curve for r in self._records.values() if r.curve}

    @classmethod
    def open(
        cls,
        url: str,
        name: str,
        space: tuple[Dimension, ...],
        sampler: SamplerConfig,
        seed: int,
        decisive: Mapping[str, Any],
        known: list[Params],
    ) -> Study:
        """Creates the study, or opens the one of this name.

        Raises:
            StudyStorageError: the database cannot be opened.
            StudyMismatchError: the study was made with another space, base config, sampler, pruner or seed.
        """
        study = optuna.create_study(
            storage=_storage(url),
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            pruner=optuna.pruners.NopPruner(),
            sampler=_build_sampler(sampler, seed),
        )
        old = study.user_attrs.get(_DECISIVE)
        new = json.loads(json.dumps(decisive))
        if old is None:
            for params in known:
                study.enqueue_trial(params, skip_if_exists=True)
            study.set_user_attr(_DECISIVE, new)
        elif old != new:
            lines = "\n  ".join(differences(old, new))
            raise StudyMismatchError(
                f"sweep {name!r} exists with other settings:\n  {lines}\n"
                "go on with the old ones, or give this sweep a name of its own: --name NEW"
            )
        return cls(study, space, sampler, seed)

    @property
    def records(self) -> list[TrialRecord]:
        """All trials that were ever started, by number."""
        return list(self._records.values())  # asked for in the order of their numbers

    @property
    def curves(self) -> Mapping[int, Mapping[int, float]]:
        """Learning curves of all trials that have reported."""
        return self._curves

    def satisfies(self, trials: int) -> bool:
        """Whether so many trials are finished and none runs."""
        return len(self._records) >= trials and all(r.state.finished for r in self._records.values())

    def record(self, number: int) -> TrialRecord:
        """What the study knows of one trial."""
        return self._records[number]

    def ask(self) -> TrialRecord:
        """Starts the next trial: a known configuration if one waits, else what the sampler suggests."""
        number = len(self._records)
        self._view.sampler = _build_sampler(self._sampler, _derived_seed(self._seed, number))
        trial = self._patiently(lambda: self._view.ask(self._distributions), lambda: self._begun(number))
        self._live[trial.number] = trial
        record = TrialRecord(trial.number, dict(trial.params), State.RUNNING)
        self._records[trial.number] = record
        return record

    def report(self, number: int, epoch: int, nme: float) -> bool:
        """Notes the best validation NME after an epoch; False if that epoch was noted before and nothing changes."""
        record = self._records[number]
        if epoch in record.curve or record.state.finished:
            return False
        self._patiently(lambda: self._live[number].report(nme, epoch))
        self._curves[number] = {**record.curve, epoch: nme}
        self._change(number, curve=self._curves[number])
        return True

    def tell(self, number: int, state: State, *, seconds: float, reason: str | None = None) -> None:
        """Ends a trial for good."""
        record = self._records[number]
        if state is State.COMPLETE and (record.best_nme is None or not math.isfinite(record.best_nme)):
            raise ValueError(f"trial {number}: COMPLETE needs a finite NME, but got {record.best_nme}")
        seconds = round(seconds, 3)  # as it is stored, or the leaderboard would change when the study is opened again
        self._patiently(lambda: self._tell(self._live[number], state, seconds, reason))
        del self._live[number]
        self._change(number, state=state, reason=reason, seconds=seconds)

    def _tell(self, trial: optuna.Trial, state: State, seconds: float, reason: str | None) -> None:
        trial.set_user_attr(_STATE, state.value)
        trial.set_user_attr(_SECONDS, seconds)
        if reason is not None:
            trial.set_user_attr(_REASON, reason)
        value = self._records[trial.number].best_nme if state is State.COMPLETE else None
        if self._study._storage.get_trial(trial._trial_id).state is TrialState.RUNNING:  # else told, but not answered
            self._study.tell(trial, value, state=_TOLD[state])

    def _patiently(self, step: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
        """Takes a step that needs the database, and takes it again while that is away.

        Args:
            step: what to do; taking it twice is the same as once, unless `done` finds what the first has done.
            done: what an attempt has done that seemed to fail; None where it has done nothing.
        """
        deadline, pause, attempt = time.monotonic() + _PATIENCE, 0.5, step
        while True:
            try:
                return attempt()
            except Exception as error:
                if not (reason := _absence(error)):
                    raise
                if time.monotonic() > deadline:
                    raise StudyStorageError(f"study: its database is away or locked ({reason})") from None
                if attempt is step:
                    logger.warning("the study's database is away or locked, waiting for it (%s)", reason)
                attempt = lambda: done() or step()  # noqa: E731
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _begun(self, number: int) -> optuna.Trial | None:
        """The trial of this number, where the database has it although nobody was told."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return next((self._adopt(trial) for trial in running if trial.number == number), None)

    def _adopt(self, frozen: FrozenTrial) -> optuna.Trial:
        """Takes over a trial of a dead driver, with the parameters that it may not have lived to write."""
        missing = [key for key in self._distributions if key not in frozen.params]
        drawn = self._draw_again(frozen) if missing else {}
        for key in missing:
            distribution = self._distributions[key]
            value = distribution.to_internal_repr(drawn[key])
            self._study._storage.set_trial_param(frozen._trial_id, key, value, distribution)
        return optuna.trial.Trial(self._study, frozen._trial_id)

    def _draw_again(self, frozen: FrozenTrial) -> Params:
        """All parameters as the dead driver drew them.

        They are drawn in a copy of the study without the half-written trial, whose own traces would change the draw.
        """
        sampler = _build_sampler(self._sampler, _derived_seed(self._seed, frozen.number))
        double = optuna.create_study(direction="minimize", sampler=sampler, pruner=optuna.pruners.NopPruner())
        double.add_trials(t for t in self._study.get_trials(states=_STARTED) if t.number < frozen.number)
        if fixed := frozen.system_attrs.get("fixed_params"):
            double.enqueue_trial(fixed)
        return dict(_view(double).ask(self._distributions).params)

    def _change(self, number: int, **changes: Any) -> None:
        self._records[number] = TrialRecord(**{**vars(self._records[number]), **changes})


_STARTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def _storage(url: str) -> optuna.storages.RDBStorage:
    """SQLite waits a minute for another process's lock; a server's dropped connections are noticed before use."""
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.startswith("sqlite"):
        options["connect_args"] = {"timeout": 60}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except ImportError as error:
        raise StudyStorageError(
            f"study: the database's driver is missing ({error}); for PostgreSQL: [postgres]"
        ) from None
    except (ValueError, RuntimeError, SQLAlchemyError) as error:  # a URL that cannot be read, tables of another version
        reason = redact(str(error).splitlines()[0])
        raise StudyStorageError(f"study = {redact(url)!r}: cannot be opened as a database ({reason})") from None


def _view(study: optuna.Study) -> _SamplersView:
    return _SamplersView(study.study_name, study._storage, study.sampler, study.pruner)


def _absence(error: BaseException) -> str:
    """Why the database cannot answer now; empty where waiting would not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OperationalError, InterfaceError)):
            text = redact(str(cause.orig)).partition("\n")[0]
            return text if "sqlite" not in type(cause.orig).__module__ or "locked" in text else ""
        cause = cause.__cause__ or cause.__context__
    return ""


def _derived_seed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def _build_sampler(config: SamplerConfig, seed: int) -> optuna.samplers.BaseSampler:
    if config.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if config.name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=config.startup_trials)
    if config.name == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=config.startup_trials)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=config.startup_trials, multivariate=True, constant_liar=True
    )


def distribution(d: Dimension) -> BaseDistribution:
    """Optuna's form of a dimension."""
    if d.kind == "choice":
        return CategoricalDistribution(d.choices)
    if d.kind in ("int", "log_int"):
        return IntDistribution(int(d.low), int(d.high), log=d.kind == "log_int")
    return FloatDistribution(d.low, d.high, log=d.kind == "log_uniform")


def _record(trial: FrozenTrial) -> TrialRecord:
    state = State(trial.user_attrs.get(_STATE, State.RUNNING)) if trial.state.is_finished() else State.RUNNING
    return TrialRecord(
        trial.number,
        dict(trial.params),
        state,
        dict(sorted(trial.intermediate_values.items())),
        trial.user_attrs.get(_REASON),
        trial.user_attrs.get(_SECONDS, 0.0),
    )

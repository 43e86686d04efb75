"""The study: the truth about trials, in Optuna's database.

Only the driver process accesses it. Learning curves are also kept in memory, so that a report costs one write. While
the database is unavailable or locked, the driver waits for it: every write may be repeated after it failed halfway.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from sweep.core.config import SweepConfig, differences, with_younger
from sweep.core.errors import StudyMismatchError, StudyStorageError
from sweep.core.redaction import redact
from sweep.core.retry import Backoff
from sweep.core.trial import Params, State, TrialRecord
from sweep.search.sampling.sampler import Sampler, distribution
from sweep.search.scheduler import next_action
from sweep.search.trial_table import TrialTable

logger = logging.getLogger(__name__)

T = TypeVar("T")
_MAX_UNAVAILABLE = 900.0  # seconds that the driver waits for the database
_DECISIVE, _STATE, _REASON, _SECONDS, _SEED, _REPEATS = "decisive", "state", "reason", "seconds", "seed", "repeats"
_ID = "id"
_MAX_ATTEMPTS = 50  # suggestions of configurations that were tried before, after which the space counts as exhausted


class Study:
    """Suggests configurations and records trials.

    A suggestion is a function of the seed, the trial's number and the trials so far, not of restarts of the driver.
    Every access to the database waits while it is unavailable, and raises StudyStorageError after 15 minutes.
    """

    def __init__(self, study: optuna.Study, config: SweepConfig) -> None:
        self._study, self._config = study, config
        self._distributions = {d.key: distribution(d) for d in config.dimensions}
        trials = study.get_trials()
        self._live = {t.number: Trial(study, t._trial_id) for t in trials if not t.state.is_finished()}
        self._trials = TrialTable(config, map(_record, trials))
        self._sampler = Sampler(config, self._trials)
        self._curves = {r.number: r.curve for r in self._trials if r.curve}
        self._tried = {_key(r.params) for r in self._trials}

    @classmethod
    def open(cls, url: str, config: SweepConfig) -> Study:
        """Opens the study of a sweep's name in a database, or creates it.

        Raises:
            StudyStorageError: the database cannot be opened.
            StudyMismatchError: the study was made with another space, base config, sampler, pruner or seed.
        """
        study = optuna.create_study(storage=_storage(url), study_name=config.name, load_if_exists=True)
        old, new = study.user_attrs.get(_DECISIVE), json.loads(json.dumps(config.decisive()))
        if _ID not in study.user_attrs:
            study.set_user_attr(_ID, uuid.uuid4().hex[:8])
        if old is None:
            study.set_user_attr(_DECISIVE, new)
        elif different := differences(with_younger(old), with_younger(new)):
            lines = "\n  ".join(different)
            raise StudyMismatchError(
                f"sweep {config.name!r} exists with other settings:\n  {lines}\n"
                "go on with the old ones, or give this sweep a name of its own: --name NEW"
            )
        return cls(study, config)

    @classmethod
    def in_memory(cls, config: SweepConfig) -> Study:
        """A study without a database, for simulations."""
        return cls(optuna.create_study(), config)

    @property
    def id(self) -> str:
        """Unique, also among deleted studies of the same name."""
        return str(self._study.user_attrs[_ID])

    @property
    def records(self) -> list[TrialRecord]:
        """All trials that were ever started, by number."""
        return list(self._trials)

    @property
    def trials(self) -> TrialTable:
        """The table of all trials, updated by every report."""
        return self._trials

    @property
    def curves(self) -> Mapping[int, Mapping[int, float]]:
        """Learning curves by trial: epoch -> best NME so far (a fraction)."""
        return self._curves

    def is_finished(self) -> bool:
        """Whether the sweep has nothing left to train; a sweep that only time ends always has."""
        full = len(self._tried) == self._config.points
        ended = all(r.state.finished for r in self._trials)
        return ended and next_action(self._config, self._trials, (), 0.0, full=full) is None

    def record(self, number: int) -> TrialRecord:
        """One trial."""
        return self._trials[number]

    def ask(self) -> TrialRecord | None:
        """Starts the next trial with the next known configuration or, without one, a suggestion of the sampler.

        No configuration is tried twice. None if everything suggested was tried before: a finite space is exhausted.
        """
        number = len(self._trials)
        own = number - self._trials.replicates  # index among the search trials
        if len(self._tried) == self._config.points:
            return None
        for fixed in [*self._config.trials_known[own : own + 1], {}]:
            for attempt in range(_MAX_ATTEMPTS):
                params = self._sampler.suggest(number, fixed, attempt)
                if _key(params) not in self._tried:
                    return self._start(TrialRecord(number, params))
                if params.keys() <= fixed.keys():  # nothing is left to suggest
                    break
        return None

    def repeat(self, number: int, seed: int) -> TrialRecord:
        """Starts a trial with the parameters of another one and another training seed."""
        params = dict(self._trials[number].params)
        return self._start(TrialRecord(len(self._trials), params, seed=seed, replicate_of=number))

    def _start(self, record: TrialRecord) -> TrialRecord:
        """Records a new trial in one transaction, so that a killed driver leaves all of it or nothing."""
        attributes = {_SEED: record.seed, _REPEATS: record.replicate_of} if record.replicate_of is not None else {}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=record.params,
            distributions={key: self._distributions[key] for key in record.params},
            user_attrs=attributes,
        )
        study_id, storage = self._study._study_id, self._study._storage
        trial_id = self._with_retry(
            lambda: storage.create_new_trial(study_id, template_trial=template),
            lambda: self._running_trial_id(record.number),
        )
        self._live[record.number] = Trial(self._study, trial_id)
        self._trials.upsert(record)
        self._tried.add(_key(record.params))
        return record

    def report(
        self, number: int, epoch: int, nme: float, metrics: Mapping[str, float] | None = None, seconds: float = 0.0
    ) -> bool:
        """Records the best validation NME (a fraction) after an epoch; False if that epoch was recorded before.

        Metrics and the seconds trained so far are kept in memory only; the event log makes them durable.
        """
        record = self._trials[number]
        if metrics is not None:
            self._change(number, metrics=metrics)
            record = self._trials[number]
        if epoch in record.curve or record.state.finished:
            return False
        self._with_retry(lambda: self._live[number].report(nme, epoch))
        self._curves[number] = {**record.curve, epoch: nme}
        self._change(number, curve=self._curves[number], seconds=seconds)
        return True

    def set_state(self, number: int, state: State) -> None:
        """Marks an unfinished trial as RUNNING or PAUSED, in memory only."""
        self._change(number, state=state)

    def tell(self, number: int, state: State, *, seconds: float, reason: str | None = None) -> None:
        """Ends a trial for good."""
        record = self._trials[number]
        if state is State.COMPLETE and (record.best_nme is None or not math.isfinite(record.best_nme)):
            raise ValueError(f"trial {number}: COMPLETE needs a finite NME, but got {record.best_nme}")
        seconds = round(seconds, 3)  # as it is stored, or the leaderboard would change when the study is opened again
        self._with_retry(lambda: self._tell(self._live[number], state, seconds, reason))
        del self._live[number]
        self._change(number, state=state, reason=reason, seconds=seconds)

    def _tell(self, trial: Trial, state: State, seconds: float, reason: str | None) -> None:
        trial.set_user_attr(_STATE, state.value)
        trial.set_user_attr(_SECONDS, seconds)
        if reason is not None:
            trial.set_user_attr(_REASON, reason)
        value = self._trials[trial.number].best_nme if state is State.COMPLETE else None
        if self._study._storage.get_trial(trial._trial_id).state is TrialState.RUNNING:  # else told, but not answered
            self._study.tell(trial, value, state=TrialState[str(state.traits.optuna)])

    def _with_retry(self, call: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
        """Retries a database call with back-off while the database is unavailable or locked.

        Args:
            call: idempotent, or with a `done` that tells whether it has happened.
            done: the result of an attempt that succeeded although its answer was lost; None if it did not.
        """
        backoff, attempt = Backoff(_MAX_UNAVAILABLE), call
        while True:
            try:
                return attempt()
            except Exception as error:
                if not (reason := _unavailable_reason(error)):
                    raise
                if backoff.over:
                    raise StudyStorageError(f"study: its database is away or locked ({reason})") from None
                if attempt is call:
                    logger.warning("the study's database is away or locked, waiting for it (%s)", reason)
                attempt = lambda: done() or call()  # noqa: E731
            backoff.wait()

    def _running_trial_id(self, number: int) -> int | None:
        """The id of a running trial of this number in the database; None if there is none."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return next((trial._trial_id for trial in running if trial.number == number), None)

    def _change(self, number: int, **changes: Any) -> None:
        self._trials.upsert(TrialRecord(**{**vars(self._trials[number]), **changes}))


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Storage that waits a minute for SQLite's lock, and tests a server's connections before it uses them."""
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


def _unavailable_reason(error: BaseException) -> str:
    """Why the database cannot answer now; empty if waiting would not help."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (OperationalError, InterfaceError)):
            text = redact(str(cause.orig)).partition("\n")[0]
            return text if "sqlite" not in type(cause.orig).__module__ or "locked" in text else ""
        cause = cause.__cause__ or cause.__context__
    return ""


def _key(params: Params) -> str:
    return json.dumps(params, sort_keys=True)


def _record(trial: FrozenTrial) -> TrialRecord:
    state = State(trial.user_attrs.get(_STATE, State.RUNNING)) if trial.state.is_finished() else State.RUNNING
    return TrialRecord(
        trial.number,
        dict(trial.params),
        state,
        dict(sorted(trial.intermediate_values.items())),
        trial.user_attrs.get(_REASON),
        trial.user_attrs.get(_SECONDS, 0.0),
        seed=trial.user_attrs.get(_SEED),
        replicate_of=trial.user_attrs.get(_REPEATS),
    )

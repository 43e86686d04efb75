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
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from sweep.core.config import SearchConfig, differences, with_younger
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

    def __init__(self, storage: optuna.storages.BaseStorage, config: SearchConfig) -> None:
        self._storage, self._config = storage, config
        self._study_id = storage.get_study_id_from_name(config.name)
        self._distributions = {d.key: distribution(d) for d in config.dimensions}
        trials = storage.get_all_trials(self._study_id, deepcopy=False)
        unfinished = [trial.number for trial in trials if not trial.state.is_finished()]
        self._trial_ids = {number: self._trial_id(number) for number in unfinished}
        self._trials = TrialTable(config, map(_record, trials))
        self._sampler = Sampler(config, self._trials)
        self._curves = {r.number: r.curve for r in self._trials if r.curve}
        self._tried = {_key(r.params) for r in self._trials}

    @classmethod
    def open(cls, url: str, config: SearchConfig) -> Study:
        """Opens the study of a sweep's name in a database, or creates it.

        Raises:
            StudyStorageError: the database cannot be opened.
            StudyMismatchError: the study was made with another space, base config, sampler, pruner or seed.
        """
        storage = _storage(url)
        study = optuna.create_study(storage=storage, study_name=config.name, load_if_exists=True)
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
        return cls(storage, config)

    @classmethod
    def in_memory(cls, config: SearchConfig) -> Study:
        """A study without a database, for simulations."""
        storage = optuna.storages.InMemoryStorage()
        optuna.create_study(storage=storage, study_name=config.name)
        return cls(storage, config)

    @property
    def id(self) -> str:
        """Unique, also among deleted studies of the same name."""
        return str(self._storage.get_study_user_attrs(self._study_id)[_ID])

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
        self._trial_ids[record.number] = self._with_retry(
            lambda: self._storage.create_new_trial(self._study_id, template_trial=template),
            lambda: self._created_trial_id(record.number),
        )
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
        trial_id = self._trial_ids[number]
        self._with_retry(lambda: self._storage.set_trial_intermediate_value(trial_id, epoch, nme))
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
        self._with_retry(lambda: self._tell(record, state, seconds, reason))
        del self._trial_ids[number]
        self._change(number, state=state, reason=reason, seconds=seconds)

    def _tell(self, record: TrialRecord, state: State, seconds: float, reason: str | None) -> None:
        trial_id, storage = self._trial_ids[record.number], self._storage
        storage.set_trial_user_attr(trial_id, _STATE, state.value)
        storage.set_trial_user_attr(trial_id, _SECONDS, seconds)
        if reason is not None:
            storage.set_trial_user_attr(trial_id, _REASON, reason)
        if storage.get_trial(trial_id).state is TrialState.RUNNING:  # not if an attempt succeeded without an answer
            told, nme = TrialState[str(state.traits.optuna)], record.best_nme
            values = None if told is TrialState.FAIL or nme is None or math.isnan(nme) else [nme]
            storage.set_trial_state_values(trial_id, told, values)

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

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _created_trial_id(self, number: int) -> int | None:
        """The id of a trial in the database; None if there is no trial of this number."""
        try:
            return self._trial_id(number)
        except KeyError:
            return None

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

"""The study: the truth about trials, in Optuna's database.

Only the driver process touches it. Learning curves are kept in memory besides, so that a report costs one write. While
the database is away or locked, the driver waits for it: each of its steps can be taken again after half of it was.
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
from sweep.core.retry import Patience
from sweep.core.trial import Params, State, TrialRecord
from sweep.search.sampling.sampler import Sampler, distribution
from sweep.search.scheduler import next_step
from sweep.search.trial_table import Trials

logger = logging.getLogger(__name__)

T = TypeVar("T")
_PATIENCE = 900.0  # seconds that the driver waits for a database that is away, before it gives up
_DECISIVE, _STATE, _REASON, _SECONDS, _SEED, _REPEATS = "decisive", "state", "reason", "seconds", "seed", "repeats"
_ID = "id"
_REDRAWS = 50  # suggestions that were all tried before, after which a finite space counts as searched

_TOLD = {
    State.COMPLETE: TrialState.COMPLETE,
    State.PRUNED: TrialState.PRUNED,
    State.DIVERGED: TrialState.PRUNED,
    State.INFEASIBLE: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


class Study:
    """Suggests, records and remembers trials.

    Suggestions depend on the seed, the trial's number and what the study holds at that time, not on how often the
    driver was restarted. All that touches the database waits while it is away, and raises StudyStorageError when that
    takes too long.
    """

    def __init__(self, study: optuna.Study, config: SweepConfig) -> None:
        self._study, self._config = study, config
        self._distributions = {d.key: distribution(d) for d in config.dimensions}
        trials = study.get_trials()
        self._live = {t.number: Trial(study, t._trial_id) for t in trials if not t.state.is_finished()}
        self._trials = Trials(config, map(_record, trials))
        self._sampler = Sampler(config, self._trials)
        self._curves = {r.number: r.curve for r in self._trials if r.curve}
        self._tried = {_key(r.params) for r in self._trials}

    @classmethod
    def open(cls, url: str, config: SweepConfig) -> Study:
        """Creates the study of a sweep in a database, or opens the one of its name.

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
        """A study that ends with the process, for simulations."""
        return cls(optuna.create_study(), config)

    @property
    def id(self) -> str:
        """Of this study alone, also among those of its name that were deleted."""
        return str(self._study.user_attrs[_ID])

    @property
    def records(self) -> list[TrialRecord]:
        """All trials that were ever started, by number."""
        return list(self._trials)

    @property
    def trials(self) -> Trials:
        """The same, as decisions are made on them; changes with every report."""
        return self._trials

    @property
    def curves(self) -> Mapping[int, Mapping[int, float]]:
        """Learning curves of all trials that have reported."""
        return self._curves

    def satisfies(self) -> bool:
        """Whether nothing is left to run; what time alone allows is."""
        full = len(self._tried) == self._config.points
        ended = all(r.state.finished for r in self._trials)
        return ended and next_step(self._config, self._trials, (), 0.0, full=full) is None

    def record(self, number: int) -> TrialRecord:
        """What the study knows of one trial."""
        return self._trials[number]

    def ask(self) -> TrialRecord | None:
        """Starts the next trial: a known configuration if one is left, else what the sampler suggests.

        What was tried before is not tried again, known or not: None where all that is suggested was, so that a finite
        space is full.
        """
        number = len(self._trials)
        own = number - self._trials.repeats  # known ones are counted without the repeats
        if len(self._tried) == self._config.points:
            return None
        for fixed in [*self._config.trials_known[own : own + 1], {}]:
            for attempt in range(_REDRAWS):
                params = self._sampler.suggest(number, fixed, attempt)
                if _key(params) not in self._tried:
                    return self._start(TrialRecord(number, params))
                if params.keys() <= fixed.keys():  # nothing of it is drawn
                    break
        return None

    def repeat(self, number: int, seed: int) -> TrialRecord:
        """Starts a trial with the parameters of another one and another seed of the training."""
        params = dict(self._trials[number].params)
        return self._start(TrialRecord(len(self._trials), params, seed=seed, repeats=number))

    def _start(self, record: TrialRecord) -> TrialRecord:
        """Notes a new trial; in one step, so that no driver can die with half of it done."""
        attributes = {_SEED: record.seed, _REPEATS: record.repeats} if record.repeats is not None else {}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=record.params,
            distributions={key: self._distributions[key] for key in record.params},
            user_attrs=attributes,
        )
        study_id, storage = self._study._study_id, self._study._storage
        trial_id = self._patiently(
            lambda: storage.create_new_trial(study_id, template_trial=template), lambda: self._begun(record.number)
        )
        self._live[record.number] = Trial(self._study, trial_id)
        self._trials.put(record)
        self._tried.add(_key(record.params))
        return record

    def report(
        self, number: int, epoch: int, nme: float, metrics: Mapping[str, float] | None = None, seconds: float = 0.0
    ) -> bool:
        """Notes the best validation NME after an epoch; False if that epoch was noted before and nothing changes.

        All metrics and the seconds trained so far are kept in memory only; the event log has them for good.
        """
        record = self._trials[number]
        if metrics is not None:
            self._change(number, metrics=metrics)
            record = self._trials[number]
        if epoch in record.curve or record.state.finished:
            return False
        self._patiently(lambda: self._live[number].report(nme, epoch))
        self._curves[number] = {**record.curve, epoch: nme}
        self._change(number, curve=self._curves[number], seconds=seconds)
        return True

    def hold(self, number: int, state: State) -> None:
        """Marks an unfinished trial as RUNNING or PAUSED, in memory only."""
        self._change(number, state=state)

    def tell(self, number: int, state: State, *, seconds: float, reason: str | None = None) -> None:
        """Ends a trial for good."""
        record = self._trials[number]
        if state is State.COMPLETE and (record.best_nme is None or not math.isfinite(record.best_nme)):
            raise ValueError(f"trial {number}: COMPLETE needs a finite NME, but got {record.best_nme}")
        seconds = round(seconds, 3)  # as it is stored, or the leaderboard would change when the study is opened again
        self._patiently(lambda: self._tell(self._live[number], state, seconds, reason))
        del self._live[number]
        self._change(number, state=state, reason=reason, seconds=seconds)

    def _tell(self, trial: Trial, state: State, seconds: float, reason: str | None) -> None:
        trial.set_user_attr(_STATE, state.value)
        trial.set_user_attr(_SECONDS, seconds)
        if reason is not None:
            trial.set_user_attr(_REASON, reason)
        value = self._trials[trial.number].best_nme if state is State.COMPLETE else None
        if self._study._storage.get_trial(trial._trial_id).state is TrialState.RUNNING:  # else told, but not answered
            self._study.tell(trial, value, state=_TOLD[state])

    def _patiently(self, step: Callable[[], T], done: Callable[[], T | None] = lambda: None) -> T:
        """Takes a step that needs the database, and takes it again while that is away.

        Args:
            step: what to do; taking it twice is the same as once, unless `done` finds what the first has done.
            done: what an attempt has done that seemed to fail; None where it has done nothing.
        """
        patience, attempt = Patience(_PATIENCE), step
        while True:
            try:
                return attempt()
            except Exception as error:
                if not (reason := _absence(error)):
                    raise
                if patience.over:
                    raise StudyStorageError(f"study: its database is away or locked ({reason})") from None
                if attempt is step:
                    logger.warning("the study's database is away or locked, waiting for it (%s)", reason)
                attempt = lambda: done() or step()  # noqa: E731
            patience.wait()

    def _begun(self, number: int) -> int | None:
        """The id of the trial of this number, where the database has it although nobody was told."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return next((trial._trial_id for trial in running if trial.number == number), None)

    def _change(self, number: int, **changes: Any) -> None:
        self._trials.put(TrialRecord(**{**vars(self._trials[number]), **changes}))


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


def _absence(error: BaseException) -> str:
    """Why the database cannot answer now; empty where waiting would not help."""
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
        repeats=trial.user_attrs.get(_REPEATS),
    )

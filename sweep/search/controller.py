"""Decides about trials and records them: in the event log first, then in the study.

An executor asks what to train next, whether a trial continues after a report, and tells how it ended. Every decision is
a function of study and event log, so the driver may be killed between any two lines.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sweep.core.config import SearchConfig
from sweep.core.trial import Assignment, State, TrialRecord
from sweep.search.objectives import broken_limit
from sweep.search.pruners import should_prune
from sweep.search.rungs import ladder, pause_epochs
from sweep.search.scheduler import Action, next_action, worst_paused
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind
from sweep.storage.log_state import BEST_NME, EPOCH_SECONDS, LogState
from sweep.storage.sweep_folder import CED_FILE


class Log(Protocol):
    """What the controller needs of an event log."""

    def append(self, event: Event) -> None: ...

    def read(self) -> Iterable[tuple[Event, int]]: ...


class SweepController:
    """Hands out trials, records their reports and decides about them.

    Args:
        config: the sweep.
        study: the truth about trials.
        log: the full history of metrics.
        clock: seconds, of which only differences count.
    """

    def __init__(
        self, config: SearchConfig, study: Study, log: Log, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config, self._study, self._log, self._clock = config, study, log, clock
        self._began, self._full = clock(), False
        self._listener: Callable[[Event], None] = lambda event: None
        self._orphans = [r.number for r in study.records if not r.state.finished]
        self._epochs = config.train.optim.epochs
        self._live: set[int] = set()
        self._seconds: dict[int, float] = {r.number: 0.0 for r in study.records}
        self._reconcile()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Sets the function that is called after every recorded event."""
        self._listener = listener

    @property
    def records(self) -> list[TrialRecord]:
        """All trials that were ever started, by number."""
        return self._study.records

    def record(self, number: int) -> TrialRecord:
        """One trial."""
        return self._study.record(number)

    @property
    def leader(self) -> TrialRecord | None:
        """The trial with the lowest NME, complete or not."""
        return self._study.trials.leader

    @property
    def finalists(self) -> Sequence[TrialRecord]:
        """The complete trials and all repeats, by number."""
        return self._study.trials.finalists

    @property
    def live(self) -> int:
        """Number of running trials."""
        return len(self._live)

    def next_trial(self) -> Assignment | None:
        """The next trial: an orphan of a killed driver, a paused one, a new one or a repeat.

        None if there is nothing to do; while trials are running, there may be later. Once none is running, the sweep
        has ended, and the paused trials have been pruned. If an orphan's report was the last event of the log, the
        decision about it was never made: it is made here.
        """
        while self._orphans:
            number = self._orphans.pop(0)
            record = self._study.record(number)
            if number != self._undecided or self._decide(number, record.epochs):
                return self._start(self._study.record(number))
        while action := self._next_action():
            if action.kind == "resume":
                return self._start(self._study.record(action.number))
            if action.kind == "repeat":
                return self._start(self._study.repeat(action.number, action.seed))
            if (new := self._study.ask()) is not None:
                return self._start(new)
            self._full = True
        if not self._live:
            for record in self.records:
                if record.state is State.PAUSED:
                    self.end(record.number, State.PRUNED)
        return None

    def _next_action(self) -> Action | None:
        return next_action(self._config, self._study.trials, self._live, self._hours, full=self._full)

    @property
    def _hours(self) -> float:
        return (self._clock() - self._began) / 3600

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Records one epoch of a trial; returns whether the trial continues.

        An epoch that was recorded before (a retry from an older checkpoint) changes nothing.
        """
        if number not in self._live:
            return False
        if epoch in self._study.record(number).curve:
            return True
        self._note(Event(EventKind.REPORT, number, {"step": epoch, "metrics": metrics}))
        return self._tell_study(number, epoch, metrics)

    def end(self, number: int, state: State, reason: str | None = None) -> None:
        """Records how a trial ended."""
        record = self._study.record(number)
        if record.state.finished:
            return
        if state is State.COMPLETE and (record.best_nme is None or not math.isfinite(record.best_nme)):
            state, reason = State.FAILED, "finished without a validation NME"
        self._study.tell(number, state, seconds=self._seconds.get(number, 0.0), reason=reason)
        self._live.discard(number)
        self._note_end(self._study.record(number))

    def interrupt(self) -> None:
        """Records that all running trials were stopped on request; the next call resumes them."""
        for number in sorted(self._live):
            self._note(Event(EventKind.TRIAL_INTERRUPTED, number))
        self._live.clear()

    def note_retry(self, number: int, attempt: int) -> None:
        """Records that a crashed trial is restarted from its checkpoint."""
        record = self._study.record(number)
        if not record.state.finished:  # a worker may die after its trial's end
            self._note(Event(EventKind.TRIAL_STARTED, number, {**self._started(record), "attempt": attempt}))

    def _start(self, record: TrialRecord) -> Assignment:
        self._live.add(record.number)
        self._study.set_state(record.number, State.RUNNING)
        started = self._started(record)
        self._note(Event(EventKind.TRIAL_STARTED, record.number, started))
        pauses = tuple(pause_epochs(self._config, record))
        saved = any(epoch <= record.epochs for epoch in pauses)
        return Assignment(record.number, self._config.trial_config(record), pauses, saved)

    def _started(self, record: TrialRecord) -> dict[str, object]:
        config = self._config.trial_config(record)
        repeat = {} if record.replicate_of is None else {"seed": record.seed, "repeats": record.replicate_of}
        return {"params": record.params, "config": config.tree(), "hash": config.identity(), **repeat}

    def _tell_study(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Tells the study and decides: the part of a report that follows from the event log."""
        self._seconds[number] = self._seconds.get(number, 0.0) + metrics[EPOCH_SECONDS]
        self._study.report(number, epoch, metrics[BEST_NME], metrics, self._seconds[number])
        return self._decide(number, epoch)

    def _decide(self, number: int, epoch: int) -> bool:
        """Whether a trial continues after its last report; if not, it has been ended or paused."""
        record, pruner = self._study.record(number), self._config.pruner
        limits = self._config.limits
        if limits.given and (reason := broken_limit(limits, record.metrics, self._config.train.replace(record.params))):
            self.end(number, State.INFEASIBLE, reason)
            return False
        if epoch >= self._epochs or record.replicate_of is not None:
            return True
        if should_prune(pruner, ladder(self._config), number, epoch, self._study.curves):
            self.end(number, State.PRUNED)
            return False
        return epoch not in pause_epochs(self._config, record) or self._is_promoted(number)

    def _is_promoted(self, number: int) -> bool:
        """Whether a trial at a rung is the next action of its own slot; if not, it has been paused."""
        self._study.set_state(number, State.PAUSED)
        live = {*self._live, *self._orphans} - {number}  # orphans of a killed driver are resumed, too
        action = next_action(self._config, self._study.trials, live, self._hours, full=self._full)
        if action == Action("resume", number):
            self._study.set_state(number, State.RUNNING)
            return True
        self._pause(number)
        return False

    def _pause(self, number: int) -> None:
        self._live.discard(number)
        self._note(Event(EventKind.TRIAL_PAUSED, number))
        self._limit_paused()

    def _limit_paused(self) -> None:
        """Prunes the worst paused trials while there are more than `pruner.paused`."""
        while (worst := worst_paused(self._config, self._study.trials)) is not None:
            self.end(worst.number, State.PRUNED)

    def _reconcile(self) -> None:
        """Brings to the study what a killed driver had logged but not told it, and to the log what it had told it."""
        log = LogState.of(self._log.read())
        self._undecided = log.undecided
        for number in self._seconds.keys() & log.history.keys():
            for epoch, metrics in log.history[number].items():
                self._seconds[number] += metrics[EPOCH_SECONDS]
                self._study.report(number, epoch, metrics[BEST_NME], metrics, self._seconds[number])
        paused = {number for number, kind in log.last_event.items() if kind is EventKind.TRIAL_PAUSED}
        self._orphans = [number for number in self._orphans if number not in paused]
        for record in self._study.records:
            if record.number in paused and not record.state.finished:
                self._study.set_state(record.number, State.PAUSED)
            if record.state.finished and log.last_event.get(record.number) is not EventKind.TRIAL_ENDED:
                self._note_end(record)
        self._limit_paused()

    def _note_end(self, record: TrialRecord) -> None:
        picture = self._config.trial_folder(record.number) / CED_FILE
        data = {
            "state": record.state.value,
            "reason": record.reason,
            "best_nme": record.best_nme,
            "artifacts": [str(picture)] if record.curve else [],
        }
        self._note(Event(EventKind.TRIAL_ENDED, record.number, data))

    def _note(self, event: Event) -> None:
        self._log.append(event)
        self._listener(event)

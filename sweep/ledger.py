"""Where a result becomes durable and a decision is made: event log first, then study.

The executor asks three things: what to run next, whether to go on after a report, and to note how a trial ended. All of
it is deterministic in what study and event log hold, so a driver may be killed between any two lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sweep.config import SweepConfig
from sweep.events import Event, EventKind, EventLog
from sweep.pictures import CED_FILE
from sweep.pruning import should_prune
from sweep.records import State, TrialRecord
from sweep.study import Study
from trainer.config import TrainConfig

OBJECTIVE = "best_nme"


@dataclass(frozen=True)
class Assignment:
    """A trial to run: from the start, or from its last checkpoint if its folder has one."""

    number: int
    config: TrainConfig


class Ledger:
    """Hands out trials, takes their reports, decides, and remembers.

    Args:
        config: the sweep.
        study: the truth about trials.
        log: the full history of metrics.
    """

    def __init__(self, config: SweepConfig, study: Study, log: EventLog) -> None:
        self._config, self._study, self._log = config, study, log
        self._listener: Callable[[Event], None] = lambda event: None
        self._orphans = [r.number for r in study.records if not r.state.finished]
        self._live: set[int] = set()
        self._seconds: dict[int, float] = {r.number: 0.0 for r in study.records}
        self._catch_up_study()

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Sets who is told after every event that was noted."""
        self._listener = listener

    @property
    def records(self) -> list[TrialRecord]:
        """All trials that were ever started, by number."""
        return self._study.records

    @property
    def live(self) -> int:
        """Trials that are running now."""
        return len(self._live)

    @property
    def exhausted(self) -> bool:
        """Whether no more trials will be handed out: as many as asked for have been started."""
        return not self._orphans and len(self._study.records) >= self._config.trials

    def next_trial(self) -> Assignment | None:
        """The next trial: one that a dead driver left behind, else what the study suggests; None if there is none.

        An orphan whose last report already meant its end is ended instead of run.
        """
        while self._orphans:
            number = self._orphans.pop(0)
            record = self._study.record(number)
            if record.curve and self._prunes(number, record.epochs):
                self.end(number, State.PRUNED)
                continue
            return self._start(record)
        return None if self.exhausted else self._start(self._study.ask())

    def report(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """Notes one epoch of a trial; returns whether the trial shall go on.

        An epoch that was noted before (a retry from an older checkpoint) changes nothing.
        """
        if number not in self._live:
            return False
        if epoch in self._study.record(number).curve:
            return True
        self._note(Event(EventKind.REPORT, number, {"step": epoch, "metrics": metrics}))
        return self._take(number, epoch, metrics)

    def end(self, number: int, state: State, reason: str | None = None) -> None:
        """Notes how a trial ended."""
        record = self._study.record(number)
        if record.state.finished:
            return
        if state is State.COMPLETE and (record.best_nme is None or not math.isfinite(record.best_nme)):
            state, reason = State.FAILED, "finished without a validation NME"
        self._study.tell(number, state, seconds=self._seconds.get(number, 0.0), reason=reason)
        self._live.discard(number)
        self._note_end(self._study.record(number))

    def interrupt(self) -> None:
        """Notes that all running trials were stopped on request, to be gone on with by the next call."""
        for number in sorted(self._live):
            self._note(Event(EventKind.TRIAL_INTERRUPTED, number))
        self._live.clear()

    def note_retry(self, number: int, attempt: int) -> None:
        """Notes that a crashed trial starts again from its checkpoint."""
        record = self._study.record(number)
        if not record.state.finished:  # a worker may die after its trial's end
            self._note(Event(EventKind.TRIAL_STARTED, number, {**self._started(record), "attempt": attempt}))

    def _start(self, record: TrialRecord) -> Assignment:
        self._live.add(record.number)
        self._note(Event(EventKind.TRIAL_STARTED, record.number, self._started(record)))
        return Assignment(record.number, self._config.trial_config(record.number, record.params))

    def _started(self, record: TrialRecord) -> dict[str, object]:
        config = self._config.trial_config(record.number, record.params)
        return {"params": record.params, "config": config.tree(), "hash": config.identity()}

    def _take(self, number: int, epoch: int, metrics: dict[str, float]) -> bool:
        """The part of a report that the event log alone can repeat: study and decision."""
        self._seconds[number] = self._seconds.get(number, 0.0) + metrics["epoch_seconds"]
        self._study.report(number, epoch, metrics[OBJECTIVE])
        if self._prunes(number, epoch):
            self.end(number, State.PRUNED)
            return False
        return True

    def _prunes(self, number: int, epoch: int) -> bool:
        last = epoch >= self._config.train.optim.epochs
        return not last and should_prune(self._config.pruner, number, epoch, self._study.curves)

    def _catch_up_study(self) -> None:
        """Brings to the study what a killed driver had logged and not told it, and to the log what it had told."""
        ended: set[int] = set()
        for event, _ in self._log.read():
            if event.kind is EventKind.TRIAL_ENDED and event.trial is not None:
                ended.add(event.trial)
            elif event.kind is EventKind.REPORT and event.trial in self._seconds:
                self._seconds[event.trial] += event.data["metrics"]["epoch_seconds"]
                self._study.report(event.trial, event.data["step"], event.data["metrics"][OBJECTIVE])
        for record in self._study.records:
            if record.state.finished and record.number not in ended:
                self._note_end(record)

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

"""The state of a sweep that its event log leads to: the one reading of trials out of events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sweep.core.trial import State, TrialRecord
from sweep.storage.event_log import Event, EventKind

BEST_NME, EPOCH_SECONDS = "best_nme", "epoch_seconds"  # metrics that every report has


@dataclass
class LogState:
    """What the events so far say.

    Attributes:
        tags: where the sweep's numbers come from, the newest of each: a call that trains nothing knows only some.
        invocations: starts of the command, in seconds since the epoch.
        records: trials by number. Interrupted ones, and those of a killed driver, are RUNNING.
        history: metrics of each trial by epoch, as in metrics.jsonl.
        last_event: the kind of the last event of each trial.
        undecided: the trial whose report is the last event of all trials, so that what follows from it may not have
            been decided; None otherwise.
    """

    tags: dict[str, str] = field(default_factory=dict)
    invocations: list[float] = field(default_factory=list)
    records: dict[int, TrialRecord] = field(default_factory=dict)
    history: dict[int, dict[int, dict[str, float]]] = field(default_factory=dict)
    last_event: dict[int, EventKind] = field(default_factory=dict)
    undecided: int | None = None
    _seconds: dict[int, float] = field(default_factory=lambda: defaultdict(float))  # of each trial, not rounded

    @classmethod
    def of(cls, events: Iterable[tuple[Event, int]]) -> LogState:
        """The state after all events, as `read_events` gives them.

        Raises:
            KeyError: an event of a trial that was never started.
        """
        state = cls()
        for event, _ in events:
            state.add(event)
        return state

    def add(self, event: Event) -> None:
        """Adds the next event."""
        if event.trial is not None:
            self._add_to_trial(event, event.trial)
        elif event.kind is EventKind.SWEEP_STARTED:
            self.tags |= event.data["tags"]
            self.invocations.append(event.time)

    def _add_to_trial(self, event: Event, trial: int) -> None:
        data = event.data
        if event.kind is EventKind.TRIAL_STARTED:
            new = TrialRecord(trial, dict(data["params"]), seed=data.get("seed"), replicate_of=data.get("repeats"))
            record = replace(self.records.get(trial, new), state=State.RUNNING)
        elif event.kind is EventKind.REPORT:
            record = self._reported(self.records[trial], data["step"], dict(data["metrics"]))
        elif event.kind is EventKind.TRIAL_ENDED:
            record = replace(self.records[trial], state=State(data["state"]), reason=data["reason"])
        elif event.kind is EventKind.TRIAL_PAUSED:
            record = replace(self.records[trial], state=State.PAUSED)
        else:
            record = self.records[trial]
        self.records[trial] = record
        self.last_event[trial] = event.kind
        self.undecided = trial if event.kind is EventKind.REPORT else None

    def _reported(self, record: TrialRecord, epoch: int, metrics: dict[str, float]) -> TrialRecord:
        history = self.history.setdefault(record.number, {})
        before = history.get(epoch, {})  # of an epoch that was trained again
        history[epoch] = metrics
        self._seconds[record.number] += metrics.get(EPOCH_SECONDS, 0.0) - before.get(EPOCH_SECONDS, 0.0)
        curve = {**record.curve, epoch: metrics[BEST_NME]} if BEST_NME in metrics else record.curve
        return replace(record, curve=curve, seconds=round(self._seconds[record.number], 3), metrics=metrics)

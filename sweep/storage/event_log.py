"""The event log of a sweep: a line of JSON for every report of every trial, on disk before it is acknowledged.

The study holds the truth about trials; this file holds the full history of metrics, of which MLflow is a projection,
and the findings of reruns. It is only appended to, by the one process that holds the sweep's lock; any number of
processes may read it meanwhile. Times are seconds since the epoch by the driver's clock, which may be set back.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from sweep.core.trial import State


class EventKind(StrEnum):
    """The kind of an event: the field "event" of its line."""

    SWEEP_STARTED = "sweep_started"
    TRIAL_STARTED = "trial_started"
    REPORT = "report"
    TRIAL_PAUSED = "trial_paused"
    TRIAL_ENDED = "trial_ended"
    TRIAL_INTERRUPTED = "trial_interrupted"
    SWEEP_ENDED = "sweep_ended"
    RERUN = "rerun"  # a training run beside the trials: a config again, with other seeds, or as the final model
    TEST_READ = "test_read"  # recorded before the test split is read
    FINDING = "finding"  # what reruns have shown


_FIELDS: dict[EventKind, frozenset[str]] = {
    EventKind.SWEEP_STARTED: frozenset({"name", "tags", "config"}),
    EventKind.TRIAL_STARTED: frozenset({"params", "config"}),
    EventKind.REPORT: frozenset({"step", "metrics"}),
    EventKind.TRIAL_PAUSED: frozenset(),
    EventKind.TRIAL_ENDED: frozenset({"state", "reason", "best_nme"}),
    EventKind.TRIAL_INTERRUPTED: frozenset(),
    EventKind.SWEEP_ENDED: frozenset({"state", "summary", "best_trial", "artifacts"}),
    EventKind.RERUN: frozenset({"run", "purpose", "of", "state", "reason", "params", "config", "started", "history"}),
    EventKind.TEST_READ: frozenset({"reading", "networks"}),
    EventKind.FINDING: frozenset({"about", "metrics", "detail"}),
}
_OF_A_TRIAL = frozenset(
    {
        EventKind.TRIAL_STARTED,
        EventKind.REPORT,
        EventKind.TRIAL_PAUSED,
        EventKind.TRIAL_ENDED,
        EventKind.TRIAL_INTERRUPTED,
    }
)
_STATES: dict[EventKind, frozenset[str]] = {
    EventKind.TRIAL_ENDED: frozenset(state.value for state in State if state.finished),
    EventKind.SWEEP_ENDED: frozenset({"FINISHED", "KILLED", "FAILED"}),
    EventKind.RERUN: frozenset({"COMPLETE", "FAILED", "DIVERGED"}),
}
# Strict JSON has no NaN: it is spelt like this, and read back as a float only in fields that hold numbers.
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_NUMERIC_FIELDS = frozenset({"metrics", "params", "config", "best_nme", "history", "detail"})


@dataclass(frozen=True)
class Event:
    """One line of the log.

    Attributes:
        kind: What happened.
        trial: The trial's number; None for what concerns the whole sweep.
        data: The fields of that kind (all of `_FIELDS`, others may be added, such as "attempt" or "artifacts").
        time: Seconds since the epoch.

    Raises:
        ValueError: A field is missing or the trial number is there when it should not be, or the reverse.
    """

    kind: EventKind
    trial: int | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if missing := _FIELDS[self.kind] - self.data.keys():
            raise ValueError(f"event {self.kind}: must hold {sorted(_FIELDS[self.kind])}, but lacks {sorted(missing)}")
        if (self.trial is None) == (self.kind in _OF_A_TRIAL):
            raise ValueError(f"event {self.kind}: a trial number is for events of a trial, but got trial={self.trial}")
        allowed = _STATES.get(self.kind)
        if allowed and self.data["state"] not in allowed:
            raise ValueError(f"event {self.kind}: state must be one of {sorted(allowed)}, got {self.data['state']!r}")
        if reserved := self.data.keys() & {"event", "time", "trial"}:
            raise ValueError(f"event {self.kind}: the names {sorted(reserved)} are the log's own")

    def to_line(self) -> bytes:
        """The event as one line of strict JSON with its newline; raises TypeError for what JSON cannot hold."""
        record: dict[str, Any] = {"event": self.kind.value, "time": self.time}
        if self.trial is not None:
            record["trial"] = self.trial
        text = json.dumps(_encode(record | dict(self.data)), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        return text.encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Event:
        """The event of one line; raises ValueError when it is none."""
        record = json.loads(line)
        if not isinstance(record, dict) or not {"event", "time"} <= record.keys():
            raise ValueError("an event is a JSON object with the fields event and time")
        kind, when, trial = EventKind(record.pop("event")), float(record.pop("time")), record.pop("trial", None)
        data = {key: _decode(value) if key in _NUMERIC_FIELDS else value for key, value in record.items()}
        return cls(kind, trial, data, when)


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """The events from a byte offset on, each with the offset behind it.

    A last line without a newline is a write that is under way or was cut off; it is not yielded.

    Raises:
        ValueError: A whole line is no event; the message names file and line.
        FileNotFoundError: There is no log.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                event = Event.from_line(line)
            except ValueError as error:
                number = path.read_bytes()[:offset].count(b"\n") + 1
                raise ValueError(f"{path}, line {number}: not an event ({error})") from error
            offset += len(line)
            yield event, offset


class EventLog:
    """The log open for appending, by the one driver of the sweep.

    Opening creates the file and its folder where missing, and cuts off a torn last line: what a killed driver had not
    finished to write was never acknowledged to anyone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._cut_torn_tail()

    def append(self, event: Event) -> None:
        """Writes the event; it is on disk when this returns, before the study hears of it.

        Raises:
            OSError: The line could not be written whole (disk full); the log is left as it was.
        """
        line = event.to_line()
        size = os.fstat(self._fd).st_size
        written = os.write(self._fd, line)  # one call: readers and a kill see the whole line or a torn tail
        if written != len(line):
            os.ftruncate(self._fd, size)
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written, is the disk full?")
        os.fsync(self._fd)

    def read(self, offset: int = 0) -> Iterator[tuple[Event, int]]:
        """See `read_events`."""
        return read_events(self.path, offset)

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut_torn_tail(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.ftruncate(self._fd, whole)


def identify(log_path: Path) -> tuple[str, str]:
    """A sweep's id, the same for as long as its log lives and never that of another sweep, and its name.

    Both are empty while nothing is logged. A name alone would not do: a sweep that is deleted and begun again under the
    same name must not end up in the old runs.

    Raises:
        ValueError: The log does not begin with the start of the sweep.
    """
    if not log_path.exists():
        return "", ""
    for event, end in read_events(log_path):
        if event.kind is not EventKind.SWEEP_STARTED:
            raise ValueError(f"{log_path}: must begin with sweep_started, but begins with {event.kind}")
        with log_path.open("rb") as file:
            return hashlib.sha256(file.read(end)).hexdigest()[:16], str(event.data["name"])
    return "", ""

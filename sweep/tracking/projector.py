"""MLflow as a projection of the event log: a parent run per sweep, a child run per trial.

Sending the log again is always harmless: runs are found by tags before they are created, params are sent once, and
MLflow stores a metric with the same step, time and value only once. So the server may be unavailable, runs may be
deleted by hand, and the cache of what was sent (`Progress`) may be lost. `sweep.tracking.mlflow_client` imports mlflow
at the first connection: that takes seconds, which the writer's thread has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path

from filelock import FileLock

from sweep.core.redaction import redact
from sweep.core.trial import TrialRecord
from sweep.storage.event_log import Event, EventKind, read_events
from sweep.storage.log_state import LogState
from sweep.tracking import shared_views
from sweep.tracking.mlflow_client import MlflowRuns, connect, translated
from sweep.tracking.run_updates import PARENT, Artifact, fold
from sweep.tracking.sweep_facts import SweepFacts
from trainer.atomic_file import replacing

logger = logging.getLogger(__name__)

_CHUNK = 1000  # events between two saves of the progress
_DELETED_RUN = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"})


class MlflowSync:
    """Sends the event log of one sweep to MLflow, from the last offset on.

    Args:
        log_path: The event log; it is only read.
        tracking_uri: As `resolve_uri` gives it.
        experiment: Name of the experiment; made when missing, restored when deleted.
        state_path: Cache of the progress, see `Progress`. Deleting it costs time, nothing else.
        artifact_root: Where a new experiment of a local database keeps its files; without effect on a server.
        render: Called with the path of a file before it is uploaded, to draw a picture that does not exist yet.
    """

    def __init__(
        self,
        log_path: Path,
        tracking_uri: str,
        experiment: str,
        state_path: Path,
        artifact_root: Path | None,
        render: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self._log_path, self._state_path, self._render = log_path, state_path, render
        self._uri, self._experiment, self._artifact_root = tracking_uri, experiment, artifact_root
        self._lock = FileLock(state_path.with_suffix(".lock"))
        self._server: MlflowRuns | None = None
        self._facts = SweepFacts()
        self._refused_at = -1  # offset at which a request was refused, which is tried once more
        self._progress = Progress()
        self._load()

    @property
    def lag(self) -> int:
        """Number of events that are not sent yet; callable from any thread."""
        if not self._log_path.exists():
            return 0
        with self._log_path.open("rb") as file:
            file.seek(self._progress.offset)
            return file.read().count(b"\n")

    @property
    def experiment_id(self) -> str:
        """Id of the experiment; empty while nothing was sent."""
        return self._progress.experiment_id

    def page(self, view: str) -> str:
        """Path of a view (LEADERBOARD, CHARTS) of this sweep on an MLflow server; empty while nothing was sent."""
        progress = self._progress
        if not progress.experiment_id:
            return ""
        return shared_views.page(progress.experiment_id, progress.sweep_id if progress.views else None, view)

    def run_id(self, key: str) -> str | None:
        """The run of a trial (its number as text) or rerun (its name), PARENT for the sweep's; None if unknown."""
        return self._progress.parent if key == PARENT else self._progress.trials.get(key)

    @property
    def finished(self) -> bool:
        """Whether MLflow has every event and every artifact."""
        return self.lag == 0 and not self._progress.waiting

    def check(self) -> None:
        """Connects without writing a run; raises TrackingUnavailable when that fails."""
        with translated(self._uri):
            connect(self._uri).search_experiments(max_results=1)

    def catch_up(self) -> int:
        """Sends everything from the last offset to the end of the log, then the artifacts; returns the events sent.

        Raises:
            TrackingUnavailable: The server is away. What was sent until then stays sent.
            ValueError: The log is corrupt.
        """
        if self.finished and self._server is not None:
            return 0
        sent = 0
        with self._lock:
            self._load()
            while self._progress.sweep_id:
                server = self._server or self._connected()
                chunk = list(islice(read_events(self._log_path, self._progress.offset), _CHUNK))
                if chunk:
                    sent += len(chunk) if self._deliver(server, [event for event, _ in chunk], chunk[-1][1]) else 0
                elif self._progress.waiting:
                    self._upload_next(server)
                else:
                    break
        return sent

    def _load(self) -> None:
        """Loads the progress, which another process may have advanced; resets it for another log or server."""
        self._facts = SweepFacts.of(self._log_path)
        sweep_id = self._facts.sweep_id
        known, self._progress = self._progress, Progress.load(self._state_path)
        if (self._progress.tracking_uri, self._progress.sweep_id) != (redact(self._uri), sweep_id):
            self._progress = Progress(tracking_uri=redact(self._uri), sweep_id=sweep_id)
        if self._progress.offset != known.offset or sweep_id != known.sweep_id:
            self._server = None  # its runs are outdated

    def _connected(self) -> MlflowRuns:
        """A new connection; the log is sent again from its start if runs were deleted."""
        progress = self._progress
        with translated(self._uri):
            server = MlflowRuns(self._uri, self._experiment, self._facts, self._artifact_root)
        alive = {run.run_id for run in server.runs.values()}
        lost = {progress.parent, *progress.trials.values()} - {""} - alive
        if lost:
            logger.warning("%d runs of this sweep were deleted in MLflow; making them again", len(lost))
        if lost or not alive:
            progress.offset, progress.waiting = 0, []
        self._server = server
        self._remember(server)
        return server

    def _deliver(self, server: MlflowRuns, events: list[Event], end: int) -> bool:
        """Sends a stretch of events and saves the progress; False if it must be retried on a new connection."""
        progress, start = self._progress, self._progress.offset
        updates = fold(events, self._record)
        try:
            with translated(self._uri):
                for key, update in updates.items():
                    server.send(key, update)
        except Exception as error:
            self._server = None
            self._remember(server)
            if getattr(error, "error_code", None) in _DELETED_RUN and self._refused_at != start:
                self._refused_at = start
                return False
            self._refused_at = -1
            raise
        self._refused_at = -1
        new = [(key, artifact) for key, update in updates.items() for artifact in update.artifacts]
        progress.waiting += [item for item in new if item not in progress.waiting]
        progress.offset = end
        self._remember(server)
        if any(event.kind is EventKind.SWEEP_ENDED for event in events):
            self._server = None  # a new connection looks for deleted and duplicate runs
        return True

    def _record(self, trial: int) -> TrialRecord:
        return LogState.of(read_events(self._log_path)).records[trial]

    def _upload_next(self, server: MlflowRuns) -> None:
        key, artifact = self._progress.waiting[0]
        if artifact.path is not None:
            self._render(Path(artifact.path))
        try:
            with translated(self._uri):
                server.upload(key, artifact)
        except Exception:
            self._server = None
            raise
        del self._progress.waiting[0]
        if not self._progress.waiting:  # not after each: uploading one again is harmless
            self._remember(server)

    def _remember(self, server: MlflowRuns) -> None:
        ids = {key: run.run_id for key, run in server.runs.items()}
        self._progress.experiment_id, self._progress.views = server.experiment_id, server.has_views
        self._progress.parent = ids.pop(PARENT, "")
        self._progress.trials = ids
        self._progress.save(self._state_path)


@dataclass
class Progress:
    """How much of the log was sent, and where. Only a cache: all of it can be found on the server.

    Attributes:
        tracking_uri: Without its password.
        sweep_id: The log that `offset` belongs to.
        views: Whether the experiment holds the views of this sweep.
        trials: Run id of each trial by its number as text.
        offset: Bytes of the log that are sent.
        waiting: Artifacts that are not uploaded yet, as (key of the run, artifact).
    """

    tracking_uri: str = ""
    sweep_id: str = ""
    experiment_id: str = ""
    views: bool = False
    parent: str = ""
    trials: dict[str, str] = field(default_factory=dict)
    offset: int = 0
    waiting: list[tuple[str, Artifact]] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """The saved progress; a new one if there is none or it is damaged."""
        try:
            saved = json.loads(path.read_text())
            waiting = [(str(key), Artifact(**artifact)) for key, artifact in saved.pop("waiting")]
            return cls(**{f.name: saved[f.name] for f in fields(cls) if f.name != "waiting"}, waiting=waiting)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def save(self, path: Path) -> None:
        """Replaces the file atomically."""
        waiting = [(key, vars(artifact)) for key, artifact in self.waiting]
        with replacing(path) as temporary:  # no indent: it would take ten times as long
            temporary.write_text(json.dumps(vars(self) | {"waiting": waiting}))

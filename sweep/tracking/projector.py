"""MLflow as a projection of the event log: one parent run a sweep, one child run a trial. The only import of mlflow.

Whatever happens, sending the log again is harmless: runs are found by tags before they are made, params are sent once,
and MLflow stores a metric that comes twice with the same step, time and value once. So the server may be away, runs may
be deleted by hand and the cache of what was sent may be lost. mlflow itself is imported at the first connection, which
takes seconds and belongs into the writer's thread.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sweep.events import Event, EventKind, read_events
from sweep.projection import (
    PARENT,
    Artifact,
    Progress,
    RunUpdate,
    TrackingUnavailable,
    best_facts,
    fold,
    identify,
)
from sweep.secrets import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient


logger = logging.getLogger(__name__)

_CHUNK = 1000  # events between two saves of the progress
_ID, _TRIAL = "starsweep.id", "starsweep.trial"
# Retrying is the writer's job: a hidden second POST of create_run after a timeout would make a second run.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; a checkpoint may take a server that long to store
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# mlflow's error codes for "not now" and "not you"; the others mean that the request itself was wrong.
_AWAY = frozenset(
    {
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "DEADLINE_EXCEEDED",
        "ENDPOINT_NOT_FOUND",
    }
)
_REFUSED = frozenset({"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"})
_GONE = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "INVALID_STATE"})  # as for a deleted run


_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI's views for training, not for GenAI


def resolve_uri(uri: str | None, output: Path) -> str:
    """The tracking URI to use; None is the SQLite file mlflow.db in the output folder. Relative paths become absolute.

    Raises:
        ValueError: A folder store (MLflow no longer takes them), a database in memory, or no URI at all.
    """
    if not uri:
        return f"sqlite:///{(output.resolve() / 'mlflow.db').as_posix()}"
    if uri.startswith("sqlite"):
        scheme, separator, path = uri.partition(":///")
        if not separator or not path or ":memory:" in path:
            raise ValueError(
                f"MLflow URI {uri!r}: a database in memory is lost at the end; name a file, sqlite:///FILE.db"
            )
        return f"{scheme}:///{Path(path).expanduser().resolve().as_posix()}"
    if re.match(r"(https?|(postgresql|mysql|mssql)(\+\w+)?)://", uri) or re.match(r"databricks(://|$)", uri):
        return uri
    if not uri.startswith("file:") and Path(uri).suffix in {".db", ".sqlite", ".sqlite3"}:
        return f"sqlite:///{Path(uri).expanduser().resolve().as_posix()}"
    raise ValueError(
        f"MLflow URI {redact(uri)!r}: must be http(s)://HOST:PORT, sqlite:///FILE.db or a database URL; "
        "MLflow no longer stores runs in a plain folder"
    )


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turns every way in which a server or database can be away into TrackingUnavailable."""
    try:
        yield
    except Exception as error:
        from_database = type(error).__module__.startswith("sqlalchemy")
        if getattr(error, "error_code", None) in _REFUSED:
            raise TrackingUnavailable(
                f"MLflow at {redact(uri)} refuses this user (not authenticated, or not permitted)"
            ) from None
        if not (isinstance(error, OSError) or from_database or getattr(error, "error_code", None) in _AWAY):
            raise
        root: BaseException = error
        while cause := root.__cause__ or root.__context__:
            root = cause  # "Connection refused" says more than four layers of wrapping
        reason = redact(str(root) or type(root).__name__).partition("\n")[0][:200]
        raise TrackingUnavailable(f"MLflow at {redact(uri)} cannot be reached: {reason}") from None


@dataclass
class _RunState:
    """What is known of a run on the server without asking again."""

    run_id: str
    status: str
    params: set[str] = field(default_factory=set)


class _Server:
    """A connection: the experiment and the living runs of one sweep. Raises what mlflow raises."""

    def __init__(self, uri: str, experiment: str, sweep_id: str, artifact_root: Path | None) -> None:
        self._client = connect(uri)
        self._sweep_id = sweep_id
        if uri.startswith(("http", "databricks")):
            artifact_root = None  # a server has its own place
        self.experiment_id = self._find_experiment(experiment, artifact_root)
        self.runs = self._find_runs()

    def send(self, key: str, update: RunUpdate, sweep: str) -> None:
        """Brings the run up to the update; makes it when there is none."""
        from mlflow.entities import Metric, Param, RunTag

        tags = {"starsweep.sweep": sweep, **update.tags} if update.started else dict(update.tags)
        if key != PARENT and update.started:
            tags["mlflow.parentRunId"] = self.runs[PARENT].run_id
        run = self.runs.get(key)
        if run is None:
            run, tags = self._create(key, update, tags), {}
        self._client.log_batch(
            run.run_id,
            metrics=[Metric(*metric) for metric in update.metrics],
            params=[Param(name, value) for name, value in update.params.items() if name not in run.params],
            tags=[RunTag(name, value) for name, value in tags.items()],
            synchronous=True,
        )
        run.params |= update.params.keys()
        if update.status == "RUNNING" and run.status != "RUNNING":
            self._client.update_run(run.run_id, status="RUNNING")
        elif update.status and update.status != "RUNNING":
            self._client.set_terminated(run.run_id, update.status, update.ended)
        run.status = update.status or run.status

    def upload(self, key: str, artifact: Artifact) -> None:
        """Puts the artifact into the run; a file that is not there, or that the server will never take, is skipped."""
        run_id = self.runs[key].run_id
        if artifact.path is None:
            self._client.log_text(run_id, artifact.text, artifact.name)
        elif not os.access(artifact.path, os.R_OK):
            logger.warning("not shown in MLflow, the file cannot be read: %s", artifact.path)
        else:
            try:
                self._client.log_artifact(run_id, artifact.path, artifact.folder)
            except OSError as error:
                code = getattr(getattr(error, "response", None), "status_code", 0)
                if code not in {400, 404, 405, 413, 415}:
                    raise
                logger.warning("not shown in MLflow, the server refused %s with status %d", artifact.path, code)

    def _create(self, key: str, update: RunUpdate, tags: dict[str, str]) -> _RunState:
        tags = {**tags, _ID: self._sweep_id} | ({} if key == PARENT else {_TRIAL: key})
        name = update.name or key
        created = self._client.create_run(self.experiment_id, start_time=update.started, tags=tags, run_name=name)
        self.runs[key] = _RunState(created.info.run_id, "RUNNING")
        return self.runs[key]

    def _find_experiment(self, name: str, artifact_root: Path | None) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = artifact_root.resolve().as_uri() if artifact_root else None
            try:
                return str(self._client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
            except MlflowException as error:
                experiment = self._client.get_experiment_by_name(name)  # another process was faster
                if experiment is None or error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        if experiment.lifecycle_stage == "deleted":
            logger.warning("the MLflow experiment %r was deleted; restoring it", name)
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _find_runs(self) -> dict[str, _RunState]:
        """The runs of this sweep. A run that is there twice was made by a request that came to nothing here, and was
        carried out there all the same; the later one is deleted."""
        query, token = f"tags.`{_ID}` = '{self._sweep_id}'", None
        runs: dict[str, _RunState] = {}
        surplus: list[str] = []
        while True:
            page = self._client.search_runs([self.experiment_id], query, order_by=["start_time ASC"], page_token=token)
            for run in page:
                key = run.data.tags.get(_TRIAL, PARENT)
                if key in runs:
                    surplus.append(run.info.run_id)
                else:
                    runs[key] = _RunState(run.info.run_id, run.info.status, set(run.data.params))
            token = page.token
            if not token:
                break
        for run_id in surplus:
            self._client.delete_run(run_id)
        return runs


def connect(uri: str) -> MlflowClient:
    """A client of the store, whose tables are made where there are none."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    # Not the whole of mlflow: only the chatter about schemas, and about every retry of a database that is away.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        _make_tables(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(tracking_uri=uri)


def _make_tables(database: Path) -> None:
    """Makes the tables of a new store in a file beside it, which takes its place whole.

    MLflow makes them one by one, and can never use a database again in which a kill left half of them.
    """
    from mlflow import MlflowClient

    if database.exists():
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(database.with_name(f".{database.name}.lock")):
        if database.exists():
            return
        fresh = database.with_name(f".{database.name}.new")
        for stale in database.parent.glob(f"{fresh.name}*"):  # its journal, too
            stale.unlink()
        MlflowClient(tracking_uri=f"sqlite:///{fresh}").search_experiments(max_results=1)
        fresh.replace(database)


class Projector:
    """Sends the event log of one sweep to MLflow, from where it stopped last.

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
        self._server: _Server | None = None
        self._name = ""  # of the sweep
        self._suspect = -1  # the offset at which a request was refused, to try it once more
        self._progress = Progress()
        self._load()

    @property
    def lag(self) -> int:
        """Whole events in the log that are not sent yet; usable from any thread."""
        if not self._log_path.exists():
            return 0
        with self._log_path.open("rb") as file:
            file.seek(self._progress.offset)
            return file.read().count(b"\n")

    @property
    def experiment_id(self) -> str:
        """Of the experiment that holds the runs; empty while nothing was sent."""
        return self._progress.experiment_id

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
        """Takes over what another process sent meanwhile; starts from nothing for another log or another server."""
        sweep_id, self._name = identify(self._log_path)
        known, self._progress = self._progress, Progress.load(self._state_path)
        if (self._progress.tracking_uri, self._progress.sweep_id) != (redact(self._uri), sweep_id):
            self._progress = Progress(tracking_uri=redact(self._uri), sweep_id=sweep_id)
        if self._progress.offset != known.offset or sweep_id != known.sweep_id:
            self._server = None  # its picture of the runs is old

    def _connected(self) -> _Server:
        """A new connection; the log starts over when runs that were made before are gone."""
        progress = self._progress
        with translated(self._uri):
            server = _Server(self._uri, self._experiment, progress.sweep_id, self._artifact_root)
        alive = {run.run_id for run in server.runs.values()}
        lost = {progress.parent, *progress.trials.values()} - {""} - alive
        if lost:
            logger.warning("%d runs of this sweep were deleted in MLflow; making them again", len(lost))
        if lost or not alive:
            progress.offset, progress.waiting = 0, []
        self._server = server
        self._remember(server)
        return server

    def _deliver(self, server: _Server, events: list[Event], end: int) -> bool:
        """Sends one stretch and notes its end; False when a new connection has to try again."""
        progress, start = self._progress, self._progress.offset
        updates = fold(events, lambda trial: best_facts(self._log_path, trial))
        try:
            with translated(self._uri):
                for key, update in updates.items():
                    server.send(key, update, self._name)
        except Exception as error:
            self._server = None
            self._remember(server)
            if getattr(error, "error_code", None) in _GONE and self._suspect != start:
                self._suspect = start
                return False
            self._suspect = -1
            raise
        self._suspect = -1
        new = [(key, artifact) for key, update in updates.items() for artifact in update.artifacts]
        progress.waiting += [item for item in new if item not in progress.waiting]
        progress.offset = end
        self._remember(server)
        if any(event.kind is EventKind.SWEEP_ENDED for event in events):
            self._server = None  # a new connection looks for runs that were deleted meanwhile, or made twice
        return True

    def _upload_next(self, server: _Server) -> None:
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
        if not self._progress.waiting:  # not after each: one that is sent again replaces itself
            self._remember(server)

    def _remember(self, server: _Server) -> None:
        ids = {key: run.run_id for key, run in server.runs.items()}
        self._progress.experiment_id = server.experiment_id
        self._progress.parent = ids.pop(PARENT, "")
        self._progress.trials = ids
        self._progress.save(self._state_path)

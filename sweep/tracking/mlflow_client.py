"""The MLflow store: its experiment, its runs, and the translation of its errors."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from sweep.core.errors import TrackingUnavailable
from sweep.core.redaction import redact
from sweep.tracking.run_updates import LOG10, PARENT, Artifact, RunUpdate
from sweep.tracking.shared_views import shared_views
from sweep.tracking.sweep_facts import Faces, SweepFacts

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput

logger = logging.getLogger(__name__)
_ID, _TRIAL = "starsweep.id", "starsweep.trial"
# The writer retries: a hidden second POST of create_run after a timeout would create a second run.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; storing a checkpoint may take that long
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Error codes of unavailability and of missing rights; the others mean that the request was wrong.
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


_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI's views for training, not for GenAI
_DESCRIPTION = """Sweeps of starsweep: a run for each sweep, and below it one for each of its trials.

| metric | what |
|---|---|
| `val/nme` | normalised mean error of the landmarks on the validation faces, a fraction: 0.04 is 4 % (less is better) |
| `best_nme` | the lowest `val/nme` so far, by which trials are compared |
| `val/fr10`, `val/auc10` | share of faces with an NME above 10 %, and area under the curve of errors up to there |
| `train/loss`, `lr` | mean loss and learning rate of the epoch |
| `epoch` | epochs that were trained; a trial that was PRUNED has fewer than a COMPLETE one |
| `log10/...` | logarithm of a setting that is searched by it, for the axes of charts |

The tag `starsweep.state` says how a trial ended, and `starsweep.reason` why.
"""


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Turns all errors of an unavailable server or database into TrackingUnavailable."""
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
    """A run on the server, as last known."""

    run_id: str
    status: str
    params: dict[str, str] = field(default_factory=dict)


class MlflowRuns:
    """A connection: the experiment and the runs of one sweep. Raises mlflow's errors.

    Attributes:
        has_views: whether the experiment holds the sweep's views; some users may not write its tags.
    """

    def __init__(self, uri: str, experiment: str, facts: SweepFacts, artifact_root: Path | None) -> None:
        self._client = connect(uri)
        self._facts = facts
        if uri.startswith(("http", "databricks")):
            artifact_root = None  # a server has a root of its own
        self.experiment_id = self._find_experiment(experiment, artifact_root)
        self.has_views = self._describe_experiment()
        self.runs = self._find_runs()

    def send(self, key: str, update: RunUpdate) -> None:
        """Applies an update to its run, which is created if there is none."""
        from mlflow.entities import Metric, Param, RunTag

        common = {"starsweep.sweep": self._facts.name, **self._facts.source} if update.started else {}
        tags = common | update.tags
        if key != PARENT and update.started:
            tags["mlflow.parentRunId"] = self.runs[PARENT].run_id
        run = self.runs.get(key)
        if run is None:
            run, tags = self._create(key, update, tags), {}
        metrics = update.metrics + (self._logarithms(run, update) if update.last_epoch else [])
        self._client.log_batch(
            run.run_id,
            metrics=[Metric(*metric) for metric in metrics],
            params=[Param(name, value) for name, value in update.params.items() if name not in run.params],
            tags=[RunTag(name, value) for name, value in tags.items()],
            synchronous=True,
        )
        if update.started and self._facts.faces:
            self._client.log_inputs(run.run_id, [_dataset(faces) for faces in self._facts.faces])
        run.params = update.params | run.params
        if update.status == "RUNNING" and run.status != "RUNNING":
            self._client.update_run(run.run_id, status="RUNNING")
        elif update.status and update.status != "RUNNING":
            self._client.set_terminated(run.run_id, update.status, update.ended)
        run.status = update.status or run.status

    def _logarithms(self, run: _RunState, update: RunUpdate) -> list[tuple[str, float, int, int]]:
        """Metrics for the axes of charts, of a trial that has reported.

        Not earlier: Compare draws what was sent first of all metrics that the selected runs share, which is to be NME.
        """
        values = update.params | run.params
        searched = {key: _number(values.get(key, "")) for key in self._facts.logarithmic}
        when = self._facts.started  # the same each time: it is stored once
        return [(f"{LOG10}{key}", math.log10(value), when, 0) for key, value in searched.items() if value > 0]

    def upload(self, key: str, artifact: Artifact) -> None:
        """Uploads an artifact; a file that is missing, or that the server refuses for good, is skipped."""
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
        tags = {**tags, _ID: self._facts.sweep_id} | ({} if key == PARENT else {_TRIAL: key})
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

    def _describe_experiment(self) -> bool:
        """Writes what the experiment's pages show: its description, unless the user has one, and the sweep's views."""
        from mlflow.exceptions import MlflowException

        there = self._client.get_experiment(self.experiment_id).tags
        wanted = {"mlflow.note.content": there.get("mlflow.note.content", _DESCRIPTION)} | shared_views(self._facts)
        try:
            for key in (key for key, text in wanted.items() if there.get(key) != text):
                self._client.set_experiment_tag(self.experiment_id, key, wanted[key])
        except MlflowException as error:
            if error.error_code not in _REFUSED | {"INVALID_PARAMETER_VALUE"}:
                raise
            logger.info("the experiment in MLflow gets no views of this sweep: %s", error)
            return False
        return True

    def _find_runs(self) -> dict[str, _RunState]:
        """The runs of this sweep. A request that timed out here may have created a run there; of duplicates, the later
        one is deleted."""
        query, token = f"tags.`{_ID}` = '{self._facts.sweep_id}'", None
        runs: dict[str, _RunState] = {}
        surplus: list[str] = []
        while True:
            page = self._client.search_runs([self.experiment_id], query, order_by=["start_time ASC"], page_token=token)
            for run in page:
                key = run.data.tags.get(_TRIAL, PARENT)
                if key in runs:
                    surplus.append(run.info.run_id)
                else:
                    runs[key] = _RunState(run.info.run_id, run.info.status, dict(run.data.params))
            token = page.token
            if not token:
                break
        for run_id in surplus:
            self._client.delete_run(run_id)
        return runs


def _number(text: str) -> float:
    """The number that a param holds; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _dataset(faces: Faces) -> DatasetInput:
    """Faces as MLflow's column Dataset shows them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": faces.source})
    profile = None if faces.count is None else json.dumps({"num_rows": faces.count})
    dataset = Dataset(faces.name, faces.digest, "local", source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", faces.split)])


def connect(uri: str) -> MlflowClient:
    """A client of the store, whose tables are created if necessary."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _spare_loopback()
    from mlflow import MlflowClient

    # only these two: they log every step of a schema, and every retry of an unavailable database
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if uri.startswith("sqlite:///"):
        _make_tables(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(tracking_uri=uri)


def _spare_loopback() -> None:
    """Keeps requests to this machine from a proxy that http_proxy names: it would ask its own loopback, or refuse."""
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    missing = [host for host in ("localhost", "127.0.0.1", "::1") if host not in spared.split(",")]
    if spared != "*" and missing:
        os.environ["no_proxy"] = ",".join(filter(None, [spared, *missing]))


def _make_tables(database: Path) -> None:
    """Creates the tables of a new store in a temporary file that replaces it atomically.

    MLflow creates them one by one, and cannot use a database that a kill left with half of them.
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

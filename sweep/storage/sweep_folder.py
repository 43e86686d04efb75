"""A sweep's folder: the names of its files, its lock, its log file, and the way from it into MLflow."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.logging import RichHandler

from sweep.config import SweepConfig
from sweep.pictures import CED_FILE, render
from sweep.projection import TrackingUnavailable
from sweep.secrets import RedactingFormatter
from sweep.storage import Storage, StorageError
from sweep.tracking import Projector, resolve_uri
from trainer.metrics import FACES_FILE
from trainer.settings import ConfigError

CONFIG_FILE, EVENTS_FILE, LOG_FILE, MLFLOW_STATE_FILE = "sweep.yaml", "events.jsonl", "sweep.log", "mlflow.json"
REPORT_FILE = "report.html"
logger = logging.getLogger(__name__)


def find_sweep(name: str | Path, output: Path) -> Path:
    """The folder of a sweep, given by its name in the output folder or by its folder.

    Raises:
        ConfigError: there is none.
    """
    for folder in (output / name, Path(name)):
        if (folder / EVENTS_FILE).exists():
            return folder.resolve()
    there = sorted(path.parent.name for path in output.glob(f"*/{EVENTS_FILE}"))
    known = f" (there: {', '.join(there[:10])})" if there else ""
    raise ConfigError(f"{name}: no sweep of this name in {output}, nor a folder with {EVENTS_FILE}{known}")


@contextlib.contextmanager
def locked(config: SweepConfig) -> Iterator[None]:
    """Holds the sweep for this process, which alone may add to its log; raises ConfigError when another holds it."""
    try:
        lock = FileLock(config.folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"name = {config.name!r}: this sweep is running already, in {config.folder}") from None
    with lock:
        yield


def make_projector(config: SweepConfig, storage: Storage | None = None) -> Projector:
    """The projection of a sweep's event log into its MLflow store; files that are not here come from the storage."""
    output = config.folder.parent
    uri = resolve_uri(config.mlflow_uri, output)
    return Projector(
        config.folder / EVENTS_FILE,
        uri,
        config.mlflow_experiment,
        config.folder / MLFLOW_STATE_FILE,
        output / "mlartifacts",
        functools.partial(_supply, storage),
    )


def _supply(storage: Storage | None, path: Path) -> None:
    """Brings a file here that is about to be sent, or draws it."""
    source = path.with_name(FACES_FILE) if path.name == CED_FILE else path
    if storage is not None and not source.exists():
        with contextlib.suppress(StorageError):
            storage.fetch(source)
    render(path)


def mlflow_page(config: SweepConfig) -> str:
    """Where the sweep's experiment lies on an MLflow server, in the view for training (its first is another)."""
    number = make_projector(config).experiment_id
    return f"/#/experiments/{number}?workflowType=machine_learning" if number else ""


def send(config: SweepConfig) -> bool:
    """Sends to MLflow what it lacks of a sweep; False, with a warning logged, when that is not possible now."""
    try:
        make_projector(config).catch_up()
    except TrackingUnavailable as error:
        logger.warning("%s", error)
        return False
    return True


def python_command() -> str:
    """How the user calls this Python: as python if that is it, else by its path, relative where it lies below."""
    if shutil.which("python") == sys.executable:
        return "python"
    path = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if path.startswith("..") else path)


@contextlib.contextmanager
def logging_into(path: Path, console: Console) -> Iterator[None]:
    """Everything into the sweep's log file, warnings on the console too."""
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    shown = RichHandler(level=logging.WARNING, console=console, show_path=False, show_time=False)
    shown.setFormatter(RedactingFormatter("%(message)s"))
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    for handler in (file, shown):
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in (file, shown):
            root.removeHandler(handler)
        file.close()


class _LogFile(logging.FileHandler):
    """Does without the lines for which the disk has no room."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

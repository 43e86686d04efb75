"""A sweep's folder: the names of its files, finding it, and its lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sweep.core.sections import StorageConfig
from trainer import run_folder
from trainer.errors import ConfigError

CONFIG_FILE, EVENTS_FILE, LOG_FILE, MLFLOW_STATE_FILE = "sweep.yaml", "events.jsonl", "sweep.log", "mlflow.json"
LEADERBOARD_FILE, BEST_FILE, REPORT_FILE = "leaderboard.csv", "best.yaml", "report.html"
# In a trial's folder, beside the trainer's files:
TRIAL_LOG = "trial.log"  # of all machines that it ran on
HUNG_FILE = "hung.txt"  # the stacks of its threads shortly before the timeout
CED_FILE = "ced.png"  # drawn when it is sent to MLflow
SMALL_FILES = (run_folder.CONFIG_FILE, run_folder.METRICS_FILE, run_folder.FACES_FILE, TRIAL_LOG)  # kept of every trial


def find_sweep(name: str | Path, output: Path) -> Path:
    """Finds a sweep by its name in the output folder, or by its folder.

    Raises:
        ConfigError: there is no such sweep.
    """
    for folder in (output / name, Path(name)):
        if (folder / EVENTS_FILE).exists():
            return folder.resolve()
    there = sorted(path.parent.name for path in output.glob(f"*/{EVENTS_FILE}"))
    known = f" (there: {', '.join(there[:10])})" if there else ""
    raise ConfigError(f"{name}: no sweep of this name in {output}, nor a folder with {EVENTS_FILE}{known}")


@contextlib.contextmanager
def locked(config: StorageConfig) -> Iterator[None]:
    """Locks the sweep, whose log only one process may append to; raises ConfigError if another one holds the lock."""
    try:
        lock = FileLock(config.folder / ".lock").acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"name = {config.name!r}: this sweep is running already, in {config.folder}") from None
    with lock:
        yield

"""A sweep's folder: the names of its files, how it is found, and its lock."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sweep.core.config import SweepConfig
from trainer import run_folder
from trainer.errors import ConfigError

CONFIG_FILE, EVENTS_FILE, LOG_FILE, MLFLOW_STATE_FILE = "sweep.yaml", "events.jsonl", "sweep.log", "mlflow.json"
LEADERBOARD_FILE, BEST_FILE, REPORT_FILE = "leaderboard.csv", "best.yaml", "report.html"
# In a trial's folder, beside the trainer's files:
TRIAL_LOG = "trial.log"  # what became of it, wherever it ran
HUNG_FILE = "hung.txt"  # the stacks of its threads when it had reported nothing for nearly too long
CED_FILE = "ced.png"  # drawn when MLflow gets it
SMALL_FILES = (run_folder.CONFIG_FILE, run_folder.METRICS_FILE, run_folder.FACES_FILE, TRIAL_LOG)  # kept of every trial


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

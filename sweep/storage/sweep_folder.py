"""A sweep's folder: the names of its files, its lock, its log file, and the way from it into MLflow."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sweep.core.config import SweepConfig
from trainer.errors import ConfigError
from trainer.run_folder import FACES_FILE

CED_FILE = "ced.png"  # in a trial's folder; drawn when MLflow gets it
LEADERBOARD_FILE, BEST_FILE = "leaderboard.csv", "best.yaml"
TRIAL_LOG = "trial.log"  # in a trial's folder: what became of it, wherever it ran
SMALL_FILES = ("config.yaml", "metrics.jsonl", FACES_FILE, TRIAL_LOG)  # of every trial
HUNG_FILE = "hung.txt"  # in a trial's folder: where it was when it had reported nothing for nearly too long


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

"""One trial inside a Ray worker: a config in, a report an epoch out; what is durable lies in the trial's folder."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import gc
import os
import signal
import socket
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ray import tune

from trainer.config import TrainConfig
from trainer.disk import DiskFullError, writing
from trainer.settings import ConfigError

# Keys of what a worker reports to the driver
TRIAL, EPOCH, METRICS, ENDED, REASON = "trial", "epoch", "metrics", "ended", "reason"
TIMEOUT, PAUSES, SAVED = "timeout", "pauses", "saved"  # of what it is given, besides TRIAL
DONE, DIVERGED, FAILED, DISK_FULL = "done", "diverged", "failed", "disk full"

_LEAVING = 5.0  # seconds that a worker whose trial was paused has to leave its folder

HUNG_FILE = "hung.txt"  # in a trial's folder: where it was when it had reported nothing for nearly too long


def run_trial(assignment: dict[str, Any]) -> None:
    """Trains one trial, from its last checkpoint if there is one, and reports every epoch.

    Errors that a repetition would meet again (data, weights, checkpoint) end the trial as failed, a loss or NME that is
    no number as diverged, a full disk the sweep; anything else is raised, for Ray to try again.

    Args:
        assignment: {"trial": number, "config": tree of the TrainConfig, "timeout": seconds without a report, or None,
            "pauses": epochs after which it may be paused, "saved": whether a checkpoint must be there}.
    """
    _import_trainer()
    from trainer import engine
    from trainer.annotations import DataError
    from trainer.checkpoint import LAST, CheckpointError
    from trainer.model import ModelError
    from trainer.process import release_memory

    release_memory()  # of the trial before; not at its end, where the frames of a stopped trial still hold its network
    number, config = assignment[TRIAL], TrainConfig.from_tree(assignment["config"])
    folder = Path(str(config.run.output))
    last = folder / LAST
    end = {TRIAL: number, ENDED: DONE}
    try:
        with writing(folder), _alone(folder), _Watchdog(folder / HUNG_FILE, assignment[TIMEOUT]) as watchdog:

            def report(result: engine.EpochResult) -> None:
                metrics = list(result.metrics.items())  # Ray flattens mappings
                tune.report({TRIAL: number, EPOCH: result.epoch, METRICS: metrics})
                watchdog.rest()

            pauses = frozenset(assignment[PAUSES])
            begun = assignment[SAVED] or last.exists()
            engine.train(config, report=report, resume_from=last if begun else None, save_after=pauses)
    except engine.NonFiniteError as error:
        end = {TRIAL: number, ENDED: DIVERGED, REASON: str(error)}
    except DiskFullError as error:
        end = {TRIAL: number, ENDED: DISK_FULL, REASON: str(error)}
    except (ConfigError, DataError, ModelError, CheckpointError) as error:
        end = {TRIAL: number, ENDED: FAILED, REASON: f"{type(error).__name__}: {error}"}
    except Exception:
        with contextlib.suppress(OSError):
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise
    tune.report(end)


class _Watchdog:
    """Writes the stacks of all threads into a file when the trial has reported nothing for nine tenths of its time.

    The thread that does it needs nothing of Python, so that it also writes where Python itself hangs.
    """

    def __init__(self, path: Path, seconds: float | None) -> None:
        self._path, self._seconds = path, seconds

    def __enter__(self) -> _Watchdog:
        self._file = self._path.open("w", encoding="utf-8")
        self.rest()
        return self

    def rest(self) -> None:
        """Begins to wait anew."""
        if self._seconds is not None:
            faulthandler.dump_traceback_later(0.9 * self._seconds, file=self._file)

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._path.unlink(missing_ok=True)


@functools.cache
def _import_trainer() -> None:
    """Imports torch, once a worker and never in the driver, and tells the garbage collector that it stays."""
    import trainer.engine  # noqa: F401

    gc.freeze()  # else every collection between two trials looks at a million objects for a fifth of a second


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the trial's folder; a worker that a dead driver left in it is ended first.

    One driver a sweep holds the sweep's lock, so whoever else is in a trial's folder is an orphan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / "worker.lock"), folder / "worker.pid"
    try:
        lock.acquire(timeout=_LEAVING)  # one that was paused a moment ago may still be leaving its folder
    except Timeout:
        _end_orphan(owner)
        lock.acquire(timeout=120)
    try:
        owner.write_text(f"{socket.gethostname()} {os.getpid()}", encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _end_orphan(owner: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        host, pid = owner.read_text(encoding="utf-8").split()
        if host == socket.gethostname() and int(pid) != os.getpid():
            os.kill(int(pid), signal.SIGKILL)

"""One trial inside a Ray worker: a config in, a report an epoch out; what is durable lies in the trial's folder."""

from __future__ import annotations

import contextlib
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
from trainer.settings import ConfigError

# Keys of what a worker reports to the driver
TRIAL, EPOCH, METRICS, ENDED, REASON = "trial", "epoch", "metrics", "ended", "reason"
DONE, DIVERGED, FAILED = "done", "diverged", "failed"


def run_trial(assignment: dict[str, Any]) -> None:
    """Trains one trial, from its last checkpoint if there is one, and reports every epoch.

    Errors that a repetition would meet again (data, weights, checkpoint) end the trial as failed, a loss or NME that is
    no number as diverged; anything else is raised, for Ray to try again.

    Args:
        assignment: {"trial": number, "config": tree of the TrainConfig}.
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
    folder.mkdir(parents=True, exist_ok=True)

    def report(result: engine.EpochResult) -> None:
        tune.report(
            {TRIAL: number, EPOCH: result.epoch, METRICS: list(result.metrics.items())}
        )  # Ray flattens mappings

    end = {TRIAL: number, ENDED: DONE}
    with _alone(folder):
        last = folder / LAST
        try:
            engine.train(config, report=report, resume_from=last if last.exists() else None)
        except engine.NonFiniteError as error:
            end = {TRIAL: number, ENDED: DIVERGED, REASON: str(error)}
        except (ConfigError, DataError, ModelError, CheckpointError) as error:
            end = {TRIAL: number, ENDED: FAILED, REASON: f"{type(error).__name__}: {error}"}
        except Exception:
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            raise
    tune.report(end)


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
    lock, owner = FileLock(folder / "worker.lock"), folder / "worker.pid"
    try:
        lock.acquire(timeout=0)
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

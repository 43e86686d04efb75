"""The folder in which a worker trains a trial: exclusive lock, log, watchdog, and a mirror in the storage."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sweep.storage.remote_files import Storage
from sweep.storage.sweep_folder import HUNG_FILE, TRIAL_LOG
from sweep.storage.trial_mirror import Mirror
from trainer.config import TrainConfig
from trainer.run_folder import BEST, FACES_FILE, LAST

_RELEASE_TIMEOUT = 5.0  # seconds for a worker whose trial was paused to release the folder
_DEAD_WORKER_TIMEOUT = 300.0  # seconds for one on an unreachable machine: Ray ends it after three minutes
_LOCK = "worker.lock"


class TrialWorkspace:
    """A trial's folder on this machine; as a context manager, locked for this worker.

    Args:
        config: of the trial; run.output is its folder as the driver names it.
        storage: where the trial's files go if the machines share no disk; None: run.output is that folder.
        seconds: timeout between reports; after nine tenths of it, the stacks of all threads are written. None: never.
        first: False for further processes of the same trial, which write neither the folder nor the storage.
    """

    def __init__(
        self, config: TrainConfig, storage: Storage | None, seconds: float | None, *, first: bool = True
    ) -> None:
        self._first = first
        self._path = Path(str(config.run.output))
        self.folder, self._mirror = self._path, None
        if storage is not None:
            runs = config.data.cache_folder / "runs"
            self.folder = runs / Path(storage.uri).name / self._path.relative_to(storage.root)
            if first:
                self._mirror = Mirror(storage, self._path, self.folder)
                _remove_stale(runs)
        self.config = config.replace({"run.output": str(self.folder)})
        self._watchdog = _Watchdog(self.folder / HUNG_FILE, seconds)
        self._stack = contextlib.ExitStack()

    @property
    def last(self) -> Path:
        """The trial's checkpoint."""
        return self.folder / LAST

    def __enter__(self) -> TrialWorkspace:
        if not self._first:
            return self
        with contextlib.ExitStack() as stack:
            stack.enter_context(_exclusive(self.folder))
            if self._mirror is not None:
                stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
                self._mirror.fetch((BEST, FACES_FILE, TRIAL_LOG, LAST))
            stack.enter_context(_log_into(self.folder / TRIAL_LOG))
            stack.enter_context(self._watchdog)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(None, None, None)

    def save(self, *, final: bool = False) -> None:
        """Copies changed files to the storage, before the driver is told of them."""
        if self._mirror is not None:
            self._mirror.push((BEST, FACES_FILE), LAST, final=final)

    def heartbeat(self) -> None:
        """Resets the watchdog."""
        if self._first:
            self._watchdog.reset()


class _Watchdog:
    """Writes the stacks of all threads into a file when nothing was reported for nine tenths of the timeout.

    faulthandler does it in a thread of its own, which runs even if the interpreter hangs.
    """

    def __init__(self, path: Path, seconds: float | None) -> None:
        self._path, self._seconds = path, seconds

    def __enter__(self) -> _Watchdog:
        self._file = self._path.open("w", encoding="utf-8")
        self.reset()
        return self

    def reset(self) -> None:
        """Restarts the time."""
        if self._seconds is not None:
            faulthandler.dump_traceback_later(0.9 * self._seconds, file=self._file)

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _log_into(path: Path) -> Iterator[None]:
    """Appends the log messages and warnings of this package to the trial's log."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError:  # a full disk is reported by whatever needs more space
        yield
        return
    handler.setFormatter(logging.Formatter(f"%(asctime)s {socket.gethostname()} %(levelname)s %(message)s"))
    names = ("sweep", "trainer", "py.warnings")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).removeHandler(handler)
            logging.getLogger(name).setLevel(level)
        handler.close()


def _remove_stale(runs: Path) -> None:
    """Removes folders of killed workers on this machine."""
    for lock in runs.glob(f"*/*/*/{_LOCK}"):
        with contextlib.suppress(OSError, Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Locks the trial's folder; kills a worker of a dead driver that still holds it.

    Only one driver holds the sweep's lock, so any other worker in the folder is an orphan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / _LOCK), folder / "worker.pid"
    try:
        lock.acquire(timeout=_RELEASE_TIMEOUT)  # a worker whose trial was just paused may still hold it
    except Timeout:
        _end_orphan(owner)
        lock.acquire(timeout=_DEAD_WORKER_TIMEOUT)
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

"""The folder in which a worker trains a trial: held alone, with a log, a watchdog, and a copy in the storage."""

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

_LEAVING = 5.0  # seconds that a worker whose trial was paused has to leave its folder
_CUT_OFF = 300.0  # seconds that one on a machine that is cut off may still hold it: Ray ends it after three minutes
_LOCK = "worker.lock"


class TrialWorkspace:
    """A trial's folder on this machine. As a context manager, it is this worker's alone.

    Args:
        config: of the trial; run.output is its folder as the driver names it.
        storage: where the trial's files go if the machines share no disk; None: run.output is that folder.
        seconds: without a report, after nine tenths of which it is noted what all threads do; None: never.
        first: False for further processes of the same trial, which leave the folder and the storage to the first one.
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
        """Brings what has changed to where other machines see it, before anybody is told of it."""
        if self._mirror is not None:
            self._mirror.push((BEST, FACES_FILE), LAST, final=final)

    def heartbeat(self) -> None:
        """Resets the watchdog."""
        if self._first:
            self._watchdog.reset()


class _Watchdog:
    """Writes the stacks of all threads into a file when the trial has reported nothing for nine tenths of its time.

    The thread that does it needs nothing of Python, so that it also writes where Python itself hangs.
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
    """Notes what this package and warnings say in the trial's log, which goes on where another machine left it."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError:  # a disk without room for a line will be named by what needs more
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
    """Removes folders that killed workers have left on this machine."""
    for lock in runs.glob(f"*/*/*/{_LOCK}"):
        with contextlib.suppress(OSError, Timeout), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Holds the trial's folder; a worker that a dead driver left in it is ended first.

    One driver a sweep holds the sweep's lock, so whoever else is in a trial's folder is an orphan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(folder / _LOCK), folder / "worker.pid"
    try:
        lock.acquire(timeout=_LEAVING)  # one that was paused a moment ago may still be leaving its folder
    except Timeout:
        _end_orphan(owner)
        lock.acquire(timeout=_CUT_OFF)
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

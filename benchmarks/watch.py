"""Where a driver's processor time goes: by thread, and of each call of some functions."""

from __future__ import annotations

import functools
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_EVERY = 0.5  # seconds between two looks; what a thread does between the last one and its end is missed
NATIVE = "native"
_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


class Threads:
    """Notes what each thread of this process has spent, also of those that end meanwhile; use as a context manager."""

    def __init__(self) -> None:
        self._spent: dict[int, float] = {}
        self._names: dict[int, str] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Threads:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def seconds(self) -> Mapping[str, float]:
        """Processor time so far by name of the thread: Python's, or `NATIVE` where it did not start it."""
        self._look()
        found: dict[str, float] = defaultdict(float)
        for number, seconds in list(self._spent.items()):
            found[self._names.get(number, NATIVE)] += seconds
        return found

    def _run(self) -> None:
        while not self._done.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        self._names |= {thread.native_id: thread.name for thread in threading.enumerate() if thread.native_id}
        for task in Path("/proc/self/task").iterdir():
            try:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            self._spent[int(task.name)] = _TICK * (int(fields[11]) + int(fields[12]))


class Timed:
    """Notes the processor seconds of each call of a method of a class, in its own thread; use as a context manager.

    Attributes:
        seconds: of each call that gave something, in their order.
        given: the sum of what they gave, where that is a number.
    """

    def __init__(self, owner: type, name: str) -> None:
        self.seconds: list[float] = []
        self.given = 0
        self._owner, self._name, self._method = owner, name, getattr(owner, name)

    def __enter__(self) -> Timed:
        setattr(self._owner, self._name, self._watched(self._method))
        return self

    def __exit__(self, *error: object) -> None:
        setattr(self._owner, self._name, self._method)

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            given = method(*arguments, **named)
            if given is not None:
                self.seconds.append(time.thread_time() - began)
            if isinstance(given, int):
                self.given += given
            return given

        return call


def last_tenth(values: Sequence[float]) -> Sequence[float]:
    """The last tenth of the values, one at least."""
    return values[-max(1, len(values) // 10) :]


def medians(seconds: Sequence[float]) -> tuple[float, float]:
    """In milliseconds: of all, and of the last tenth."""
    return 1e3 * statistics.median(seconds), 1e3 * statistics.median(last_tenth(seconds))

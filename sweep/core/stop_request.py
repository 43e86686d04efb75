"""The request to stop a running sweep: by a signal, or because its time is up."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
INTERRUPTED = 130  # exit code


class StopRequest:
    """Once set, running trials stop where they can be gone on with. As a context manager, it is set by signals.

    The first signal asks to stop, the second ends the process at once; both leave a sweep that can go on.
    """

    def __init__(self) -> None:
        self.by_user = False
        self.error: Exception | None = None  # what went wrong in the driver, if that is why
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

    def set(self) -> None:
        """Asks to stop, because the time is up."""
        self._event.set()

    def fail(self, error: Exception) -> None:
        """Asks to stop, because the driver cannot go on; the first error counts."""
        self.error = self.error or error
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Takes the signals over, or takes them back from a library that did."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.by_user:
            os._exit(INTERRUPTED)
        self.by_user = True
        self.set()

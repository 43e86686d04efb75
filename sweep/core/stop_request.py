"""The request to stop a running sweep, by a signal or because its time is up."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
INTERRUPTED = 130  # exit code


class StopRequest:
    """Once set, running trials stop where they can be resumed. As a context manager, it handles signals.

    The first signal requests the stop, the second exits at once; the sweep can be resumed after both.
    """

    def __init__(self) -> None:
        self.by_user = False
        self.error: Exception | None = None  # of the driver, if that is the reason
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

    def set(self) -> None:
        """Requests the stop, because the time is up."""
        self._event.set()

    def fail(self, error: Exception) -> None:
        """Requests the stop because of an error of the driver; the first one counts."""
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
        """Installs the signal handlers, also again after a library has replaced them."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.by_user:
            os._exit(INTERRUPTED)
        self.by_user = True
        self.set()

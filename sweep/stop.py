"""The request to stop a running sweep."""

from __future__ import annotations

import threading


class StopRequest:
    """Set by a signal or when the time is up; running trials then stop and can be gone on with."""

    def __init__(self) -> None:
        self.by_user = False
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

"""Lines for whoever reads no live display: what goes on is said again when nothing else was for half a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

PAUSE = 30.0  # seconds


class Pulse:
    """Says what goes on, from a thread, for as long as it is entered.

    Args:
        say: shows a line.
        text: gives it; empty where there is nothing to say.
        pause: seconds of silence before it.
    """

    def __init__(self, say: Callable[[str], object], text: Callable[[], str], pause: float = PAUSE) -> None:
        self._say, self._text, self._pause = say, text, pause
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def rest(self) -> None:
        """Something else was said."""
        self._last = time.monotonic()

    def __enter__(self) -> Pulse:
        self.rest()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(max(0.01, self._last + self._pause - time.monotonic())):
            if time.monotonic() - self._last >= self._pause:
                if text := self._text():
                    self._say(text)
                self.rest()

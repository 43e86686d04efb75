"""What is done again and again beside the work: above all, saying what goes on to whoever reads no live display."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_PAUSE = 30.0  # seconds


class Ticker:
    """Calls a function again and again, from a thread, for as long as it is entered.

    Args:
        name: of the thread.
        tick: what is called; must raise nothing.
        wait: seconds until the next call, asked anew before each.
        patient: whether leaving waits for a call that is under way.
    """

    def __init__(
        self, name: str, tick: Callable[[], object], wait: Callable[[], float], *, patient: bool = True
    ) -> None:
        self._tick, self._wait, self._patient = tick, wait, patient
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._patient:
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._wait()):
            self._tick()


class Pulse(Ticker):
    """Says what goes on when nothing else was said for half a minute.

    Args:
        say: shows a line.
        text: gives it; empty where there is nothing to say.
        pause: seconds of silence before it.
    """

    def __init__(self, say: Callable[[str], object], text: Callable[[], str], pause: float = _PAUSE) -> None:
        super().__init__("pulse", self._speak, lambda: max(0.01, self._last + self._pause - time.monotonic()))
        self._say, self._text, self._pause = say, text, pause
        self._last = time.monotonic()

    def rest(self) -> None:
        """Something else was said."""
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        self.rest()
        return super().__enter__()

    def _speak(self) -> None:
        if time.monotonic() - self._last >= self._pause:
            if text := self._text():
                self._say(text)
            self.rest()

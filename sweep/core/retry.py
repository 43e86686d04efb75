"""How long, and how often, the sweep asks again for what is away: a database, a storage."""

from __future__ import annotations

import time

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds between two attempts; each pause is twice the one before


class Backoff:
    """The pauses between attempts, which come to an end after so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._deadline, self._pause = time.monotonic() + seconds, _FIRST_PAUSE

    @property
    def over(self) -> bool:
        """Whether it is time to give up."""
        return time.monotonic() > self._deadline

    def wait(self) -> None:
        """Waits until the next attempt."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

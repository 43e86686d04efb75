"""Back-off between attempts to reach a database or storage that is unavailable."""

from __future__ import annotations

import time

_FIRST_PAUSE, _MAX_PAUSE = 0.5, 15.0  # seconds; each pause is twice the previous one


class Backoff:
    """Pauses between attempts, growing exponentially, for at most this many seconds in total."""

    def __init__(self, seconds: float) -> None:
        self._deadline, self._pause = time.monotonic() + seconds, _FIRST_PAUSE

    @property
    def over(self) -> bool:
        """Whether it is time to give up."""
        return time.monotonic() > self._deadline

    def wait(self) -> None:
        """Waits until the next attempt."""
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, _MAX_PAUSE)

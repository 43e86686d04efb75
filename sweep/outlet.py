"""Standard output that nobody has to read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TextIO


class Outlet:
    """Standard output for as long as somebody takes it: a closed terminal or pipe must not end a sweep."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what lies in its buffer goes there too, at the end
            os.close(nowhere)

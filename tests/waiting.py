"""How long tests wait: for events, and as long as a slow and busy machine may need for any of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("STARSWEEP_TEST_PATIENCE", "600"))  # seconds after which whatever is awaited is late


def wait_for(condition: Callable[[], object], what: str | Callable[[], str] = "what was waited for") -> None:
    """Waits until the condition holds; fails when patience is over."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what if isinstance(what, str) else what()}"
        time.sleep(0.02)

"""The sweep's log file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from sweep.core.redaction import RedactingFormatter


@contextlib.contextmanager
def logging_into(path: Path, console: Console) -> Iterator[None]:
    """Logs everything into the sweep's log file, and warnings on the console, too."""
    file = _LogFile(path, encoding="utf-8")
    file.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    shown = RichHandler(level=logging.WARNING, console=console, show_path=False, show_time=False)
    shown.setFormatter(RedactingFormatter("%(message)s"))
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    for handler in (file, shown):
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in (file, shown):
            root.removeHandler(handler)
        file.close()


class _LogFile(logging.FileHandler):
    """Drops lines while the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

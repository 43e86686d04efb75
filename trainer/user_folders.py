"""Folders of the user who runs this, who may have no home, or one that cannot be written to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def home_folder(name: str) -> Path | None:
    """A folder in the user's home; None where there is no home."""
    try:
        return Path.home() / name
    except RuntimeError:
        return None


def default_cache() -> Path:
    """Where caches go: below XDG_CACHE_HOME, else ~/.cache, else the temporary folder if that cannot be written to."""
    given = os.environ.get("XDG_CACHE_HOME")
    cache = Path(given) if given else home_folder(".cache")
    if cache is not None and is_writable(cache / "starsweep"):
        return cache / "starsweep"
    return Path(tempfile.gettempdir()) / f"starsweep-{user_number()}"


def is_writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or in the first above it that is there; tried, since rights alone lie."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    try:
        with tempfile.TemporaryFile(dir=there):
            return there is not None
    except OSError:
        return False


def user_number() -> int:
    """A number that tells the users of a machine apart; 0 where the system has none."""
    return os.getuid() if hasattr(os, "getuid") else 0

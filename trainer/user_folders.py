"""Folders of the user who runs this, who may have no home, or one that cannot be written to."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from trainer.errors import ConfigError

_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOENT)  # not for now, as on a full disk


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
    try:
        _make_file(folder)
    except OSError:
        return False
    return True


def check_output(folder: Path, setting: str) -> None:
    """Refuses a folder for results where nothing can be written, before hours are spent on them.

    A full disk passes: what meets it says how much space is needed.

    Args:
        folder: for results; it need not exist.
        setting: the key that names it, for the message.

    Raises:
        ConfigError: the system lets no file be made there.
    """
    try:
        _make_file(folder)
    except OSError as error:
        if error.errno in _REFUSED:
            text = f"cannot be written to ({error.strerror}); name another folder"
            raise ConfigError(f"{setting} = {str(folder)!r}: {text}") from None


def matplotlib_cache() -> None:
    """Lets matplotlib, which is to be imported next, keep its cache where the user's home cannot be written to."""
    config = os.environ.get("XDG_CONFIG_HOME") or home_folder(".config")
    if config is None or not is_writable(Path(config) / "matplotlib"):
        os.environ.setdefault("MPLCONFIGDIR", str(default_cache() / "matplotlib"))


def _make_file(folder: Path) -> None:
    """Makes a file in a folder, or in the first above it that is there, and removes it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def user_number() -> int:
    """A number that tells the users of a machine apart; 0 where the system has none."""
    return os.getuid() if hasattr(os, "getuid") else 0

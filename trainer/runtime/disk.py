"""Full disks, named with the path and the space that was needed, so that a run can be resumed once there is space."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.errors import DiskFullError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DATABASE_FULL = "database or disk is full"  # SQLite's words


@contextlib.contextmanager
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Turns whatever a full disk makes of writing `path` into DiskFullError; everything else passes unchanged.

    Args:
        path: what is written; its folder may be named where several files are.
        size: bytes that it takes, about; None where that is small.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        if is_full(error) or _too_small(path, size):
            raise full_disk(path, size) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, means a full disk: libraries raise their own instead."""
    cause: BaseException | None = error
    while cause is not None:
        if (isinstance(cause, OSError) and cause.errno in _FULL) or _DATABASE_FULL in str(cause):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def full_disk(path: Path, size: int | None = None) -> DiskFullError:
    """The error that says which path, how much it takes and how much there is."""
    free = _free(path)
    needed = "a few kB" if size is None else f"about {_readable(size)}"
    left = "" if free is None else f", {_readable(free)} are free"
    return DiskFullError(f"{path}: the disk is full: {needed} needed{left}")


def _too_small(path: Path, size: int | None) -> bool:
    """Whether so much cannot fit: PyTorch's writer hides the system's error altogether."""
    free = _free(path)
    return size is not None and free is not None and free < size


def _free(path: Path) -> int | None:
    """Bytes that are free where the path is, or will be."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} kB"

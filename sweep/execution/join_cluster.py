"""python -m sweep.execution.join_cluster ...: `ray ...` on this machine, while its starter holds its standard input.

It leaves nothing behind: Ray's agents, whose raylet is gone because the head is, would look for the head for minutes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

_LEAVING = 5.0  # seconds that Ray's command has to end by itself
_PARENT_DEATH_SIGNAL, _CHILD_SUBREAPER = 1, 36  # options of Linux's prctl(2)


def main() -> int:
    """Runs Ray's command line with the words given; returns its exit code."""
    _prctl(_CHILD_SUBREAPER, 1)  # whatever loses its parent below becomes a child of this process
    ray = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *sys.argv[1:]],
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: _prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM),
    )
    signal.signal(signal.SIGTERM, lambda *_: _end(ray))
    threading.Thread(target=_end_with_caller, args=(ray,), daemon=True).start()
    code = ray.wait()
    while orphans := list(_children()):
        for orphan in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(orphan, signal.SIGKILL)
            os.waitpid(orphan, 0)
    return code


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _end_with_caller(ray: subprocess.Popen[bytes]) -> None:
    sys.stdin.read()
    _end(ray)


def _end(ray: subprocess.Popen[bytes]) -> None:
    """Asks Ray's command to end; it would tell the head first, though that is gone."""
    ray.terminate()
    killer = threading.Timer(_LEAVING, ray.kill)
    killer.daemon = True
    killer.start()


def _children() -> Iterator[int]:
    """Numbers of this process's children; none where there is no /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(path.parent.name)


if __name__ == "__main__":
    sys.exit(main())

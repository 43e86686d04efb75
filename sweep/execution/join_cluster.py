"""python -m sweep.execution.join_cluster ...: runs `ray ...` until the parent process closes its standard input.

All processes of Ray end with it; without a head, Ray's agents would search for it for minutes.
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
    """Runs Ray's command line with the given arguments; returns its exit code."""
    _prctl(_CHILD_SUBREAPER, 1)  # orphaned descendants become children of this process
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
    """Terminates Ray's command, and kills it if it waits for a head that is gone."""
    ray.terminate()
    killer = threading.Timer(_LEAVING, ray.kill)
    killer.daemon = True
    killer.start()


def _children() -> Iterator[int]:
    """Process ids of this process's children; none on systems without /proc."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                yield int(path.parent.name)


if __name__ == "__main__":
    sys.exit(main())

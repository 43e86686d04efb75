"""python -m sweep.member ...: `ray ...` on this machine, for as long as whoever started it holds its standard input."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Runs Ray's command line with the words given."""
    threading.Thread(target=_end_with_caller, daemon=True).start()
    runpy.run_module("ray.scripts.scripts", run_name="__main__", alter_sys=True)


def _end_with_caller() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()

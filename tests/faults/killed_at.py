"""python killed_at.py ...: `python -m sweep.run ...` that kills itself with SIGKILL at the moment that MOMENT names.

With SIGNAL=SIGINT it is interrupted instead, with all that it has started, as by Ctrl-C in a terminal.

MOMENT is "seconds:S", "file:GLOB" (when such a file appears below the sweep's folder), or
"before|after:MODULE:QUALIFIED.NAME:N", which is before or right after the Nth call of that function.
"""

import functools
import importlib
import os
import signal
import sys
import threading
import time
from pathlib import Path


def die() -> None:
    if "SIGNAL" in os.environ:
        os.killpg(os.getpgid(0), signal.Signals[os.environ["SIGNAL"]])
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def at_call(when: str, module: str, name: str, count: int) -> None:
    """Wraps the function when its module is imported anyway, so that the order of imports stays as it is."""
    *path, last = name.split(".")
    owner = functools.reduce(getattr, path, importlib.import_module(module))
    function = getattr(owner, last)
    calls = iter(range(1, sys.maxsize))

    @functools.wraps(function)
    def wrapper(*arguments, **named):
        number = next(calls)
        if when == "before" and number == count:
            die()
        result = function(*arguments, **named)
        if when == "after" and number == count:
            die()
        return result

    setattr(owner, last, wrapper)


def at_file(folder: Path, pattern: str) -> None:
    while not any(folder.glob(pattern)):
        time.sleep(0.0005)
    die()


def main() -> int:
    kind, *rest = os.environ["MOMENT"].split(":")
    if kind == "seconds":
        threading.Timer(float(rest[0]), die).start()
    elif kind == "file":
        threading.Thread(target=at_file, args=(Path(os.environ["FOLDER"]), rest[0]), daemon=True).start()
    else:
        at_call(kind, rest[0], rest[1], int(rest[2]))
    from sweep.run import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

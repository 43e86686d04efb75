"""Shared by the commands: the argument that names a sweep, errors as messages and exit codes, the user's Python."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from sweep.analysis.sweep_result import SweepResult, load
from sweep.core.errors import ClusterGoneError, RayStartError, RerunError, StudyStorageError, TrackingUnavailable
from sweep.core.redaction import redact
from trainer.errors import CheckpointError, ConfigError, DataError, DiskFullError, ModelError, NonFiniteError
from trainer.settings import ArgumentParser

_RESUMABLE = (DiskFullError, StudyStorageError, ClusterGoneError, RayStartError)
_EXPLAINED = (DataError, ModelError, CheckpointError, NonFiniteError, RerunError, TrackingUnavailable, OSError)


def add_sweep_argument(parser: ArgumentParser, *, several: bool = False) -> None:
    """Adds NAME (or NAME ...), --output and --mlflow_uri."""
    parser.add_argument(
        "sweep",
        metavar="NAME",
        nargs="+" if several else None,
        help="name of a sweep in the output folder, or its folder",
    )
    parser.add_argument("--output", metavar="DIR", default="outputs", help="folder of the sweeps [default: outputs]")
    parser.add_argument("--mlflow_uri", metavar="URI", help="MLflow store, if not the one that the sweep was run with")


def load_given(arguments: argparse.Namespace) -> SweepResult:
    """Loads the sweep that the arguments name.

    Raises:
        ConfigError: there is no such sweep.
    """
    return load(arguments.sweep, Path(arguments.output), **_uri(arguments))


def load_all_given(arguments: argparse.Namespace) -> list[SweepResult]:
    """Loads all sweeps that the arguments name."""
    return [load(name, Path(arguments.output), **_uri(arguments)) for name in arguments.sweep]


def _uri(arguments: argparse.Namespace) -> dict[str, str]:
    return {"mlflow_uri": arguments.mlflow_uri} if arguments.mlflow_uri else {}


def run_command(parser: ArgumentParser, action: Callable[[], int], interrupted: str) -> int:
    """Runs the action of a command and turns every error into one message.

    Args:
        parser: of the command.
        action: returns the exit code.
        interrupted: the message after Ctrl-C.

    Returns:
        The exit code: that of the action, 1 failed, 130 interrupted; bad input exits with 2. If the cluster is gone,
        the process exits here with 1: Ray's exit handlers would wait for the cluster.
    """
    try:
        return action()
    except ConfigError as error:
        parser.error(redact(str(error)))
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, _RESUMABLE):
            text = f"{error}\nwhen this is mended, the same command goes on with the sweep"
        elif isinstance(error, _EXPLAINED):
            text = f"{type(error).__name__}: {error}"
        else:
            text = traceback.format_exc()
        print(redact(text), file=sys.stderr)
        if isinstance(error, ClusterGoneError):
            _leave(1)
        return 1


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def own_command(module: str) -> str:
    """How to type another command, in the way of this one: `starsweep rerun`, or `python -m sweep.rerun`."""
    if Path(sys.argv[0]).name == "starsweep":
        return f"{_shortest('starsweep', sys.argv[0])} {module.rpartition('.')[2]}"
    return f"{python_command()} -m {module}"


def python_command() -> str:
    """The command for this Python: `python` if that is it, else its path, relative below the working folder."""
    return _shortest("python", sys.executable)


def _shortest(name: str, program: str) -> str:
    if shutil.which(name) == program:
        return name
    path = os.path.relpath(program)
    return shlex.quote(program if path.startswith("..") else path)

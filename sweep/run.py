"""python -m sweep.run [SWEEP.yaml] [--trials 40 ...]: runs a sweep, or goes on with it. Without a file: the demo."""

from __future__ import annotations

import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO, cast

from rich.console import Console

from sweep.config import SweepConfig, load_sweep
from sweep.folder import python_command
from sweep.outlet import Outlet
from sweep.secrets import redact
from trainer.settings import ArgumentParser, ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted (resumable)."""
    parser = ArgumentParser(prog="python -m sweep.run", description=__doc__)
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="settings of the sweep; without it, the demo")
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure, forecast; start nothing")
    parser.add_settings(SweepConfig)
    arguments = parser.parse(argv)
    console = Console(file=cast(TextIO, Outlet(sys.stdout)))
    words = list(argv) if argv is not None else sys.argv[1:]
    try:
        config = load_sweep(arguments.sweep, parser.overrides(arguments))
        if arguments.dry_run:
            from sweep.preflight import dry_run

            console.print(dry_run(config), highlight=False, markup=False, soft_wrap=True)
            return 0
        from sweep.session import run_sweep

        return run_sweep(config, console, shlex.join([python_command(), "-m", "sweep.run", *words]))
    except ConfigError as error:
        parser.error(redact(str(error)))
    except KeyboardInterrupt:  # before the sweep listens for it
        print("interrupted before it began", file=sys.stderr)
        return 130
    except Exception as error:
        # By name: the modules of some import torch or optuna
        if type(error).__name__ in ("DiskFullError", "StudyStorageError"):
            text = f"{error}\nwhen this is mended, the same command goes on with the sweep"
        elif type(error).__name__ in ("DataError", "ModelError") or isinstance(error, OSError):
            text = f"{type(error).__name__}: {error}"
        else:
            text = traceback.format_exc()
        print(redact(text), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

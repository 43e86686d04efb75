"""python -m sweep.run [SWEEP.yaml] [--trials 40 ...]: runs a sweep, or goes on with it. Without a file: the demo."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from rich.console import Console

from sweep.config import SweepConfig, load_sweep
from trainer.settings import ArgumentParser, ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted (resumable)."""
    parser = ArgumentParser(prog="python -m sweep.run", description=__doc__)
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="settings of the sweep; without it, the demo")
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure, forecast; start nothing")
    parser.add_settings(SweepConfig)
    arguments = parser.parse(argv)
    console = Console()
    try:
        config = load_sweep(arguments.sweep, parser.overrides(arguments))
        if arguments.dry_run:
            from sweep.preflight import dry_run

            console.print(dry_run(config), highlight=False, markup=False, soft_wrap=True)
            return 0
        from sweep.session import python_command, run_sweep

        words = list(argv) if argv is not None else sys.argv[1:]
        return run_sweep(config, console, shlex.join([python_command(), "-m", "sweep.run", *words]))
    except ConfigError as error:
        parser.error(str(error))
    except Exception as error:
        if type(error).__name__ not in ("DataError", "ModelError"):  # the latter's module imports torch
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

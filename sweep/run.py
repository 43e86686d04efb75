"""python -m sweep.run [SWEEP.yaml] [--trials 40 ...]: runs a sweep, or goes on with it. Without a file: the demo."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from rich.console import Console

from sweep.analysis.sweep_result import SweepResult, load
from sweep.analysis.warm_start import warmed
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_to_run
from sweep.core.stop_request import INTERRUPTED
from sweep.driver import end_hook
from sweep.driver.command_line import own_command, run_command
from sweep.driver.console import BrokenPipeSafeStream
from trainer.settings import ArgumentParser


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.run", description=__doc__)
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="settings of the sweep; without it, the demo")
    parser.add_argument("--dry-run", action="store_true", help="check everything, measure, forecast; start nothing")
    parser.add_argument("--on-end", metavar="CMD", help=end_hook.HELP)
    parser.add_settings(SweepConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted (resumable)."""
    parser = build_parser()
    arguments = parser.parse(argv)
    words = list(argv) if argv is not None else sys.argv[1:]
    run = lambda: _run(arguments, parser.overrides(arguments), words)  # noqa: E731
    return run_command(parser, run, "interrupted before it began")


def _run(arguments: argparse.Namespace, overrides: dict[str, str], words: Sequence[str]) -> int:
    console = Console(file=cast(TextIO, BrokenPipeSafeStream(sys.stdout)))
    config = _load(arguments.sweep, overrides)
    if arguments.dry_run:
        from sweep.driver.preflight import dry_run

        console.print(dry_run(config), highlight=False, markup=False, soft_wrap=True)
        return 0
    from sweep.driver.session import SweepRun

    command = f"{own_command('sweep.run')} {shlex.join(words)}".rstrip()
    with end_hook.at_end(arguments.on_end, config) as end:
        end.code = SweepRun(config, console, command).run()
    return end.code


def _load(path: str | Path | None, overrides: Mapping[str, str]) -> SweepConfig:
    """The config to run; says what variables of the environment give."""
    config, lines = load_to_run(path, overrides)
    for line in lines:
        print(line, file=sys.stderr)
    return warmed(config)


def run_sweep(sweep: str | Path | None = None, **settings: Any) -> SweepResult:
    """Runs a sweep from Python, or continues the one of its name, and returns its result.

    Args:
        sweep: YAML file; None: the demo.
        settings: settings of the sweep, as in `trials=40` or `**{"train.optim.epochs": 12}`.

    Raises:
        ConfigError: a setting that does not fit.
        KeyboardInterrupt: stopped by the user; the same call goes on.
        DataError, ModelError, DiskFullError, StudyStorageError, RayStartError, ClusterGoneError: see
            `sweep.driver.session.SweepRun`.
    """
    from sweep.driver.session import SweepRun

    texts = {
        key: os.fspath(value) if isinstance(value, str | os.PathLike) else json.dumps(value)
        for key, value in settings.items()
    }
    config = _load(sweep, texts)
    arguments = ", ".join([repr(str(sweep or "demo")), *(f"{key}={value!r}" for key, value in settings.items())])
    if SweepRun(config, Console(), f"sweep.run_sweep({arguments})").run() == INTERRUPTED:
        raise KeyboardInterrupt
    return load(config.folder)


if __name__ == "__main__":
    sys.exit(main())

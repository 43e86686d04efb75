"""python -m sweep.report NAME [NAME ...]: one self-contained report.html of a sweep, or of several side by side."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from sweep.driver.command_line import add_sweep_argument, load_all_given, run_command
from sweep.reporting.html_report import write_report
from sweep.storage.sweep_folder import REPORT_FILE
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser

logger = logging.getLogger(__name__)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.report", description=__doc__)
    add_sweep_argument(parser, several=True)
    parser.add_argument("--out", metavar="HTML", type=Path, help="file to write [default: report.html of the sweep]")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return run_command(parser, lambda: _report(arguments), "interrupted")


def _report(arguments: argparse.Namespace) -> int:
    sweeps = load_all_given(arguments)
    names = "-".join(sweep.name for sweep in sweeps)
    default = sweeps[0].folder / REPORT_FILE if len(sweeps) == 1 else Path(arguments.output) / f"report-{names}.html"
    path = arguments.out or default
    if not path.parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise ConfigError(f"--out {path}: is a folder")
    print(write_report(sweeps, path))
    return 0


if __name__ == "__main__":
    sys.exit(main())

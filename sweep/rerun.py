"""python -m sweep.rerun NAME [--seeds 5] [--final]: the winner again; how far it is noise; what the test split says.

Without an option, the winner is trained again in this process, without Ray, and every epoch is compared. --seeds N
trains winner and runner-up with N other seeds. --final trains the winner on train + val, N times with --seeds N, and
reads the test split once. Everything is added to the sweep's MLflow run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from sweep.analysis.findings import Finding, Reproduction
from sweep.driver.command_line import add_sweep_argument, load_given, own_command, run_command
from sweep.driver.log_file import logging_into
from sweep.driver.verification import Verification, chosen_trial
from sweep.reporting.html_report import refresh_report
from sweep.storage.event_log import EventLog
from sweep.storage.sweep_folder import EVENTS_FILE, LOG_FILE, locked
from sweep.tracking.artifacts import make_mlflow_sync, send
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.rerun", description=__doc__)
    add_sweep_argument(parser)
    parser.add_argument("--trial", type=int, metavar="N", help="this trial instead of the winner")
    parser.add_argument("--seeds", type=_positive, metavar="N", help="number of other seeds; with --final, of networks")
    parser.add_argument("--final", action="store_true", help="train on train + val, then read the test split once")
    parser.add_argument("--again", action="store_true", help="with --final: read the test split again; it is counted")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed or another NME, 2 bad input, 130 interrupted."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return run_command(parser, lambda: _rerun(arguments), "interrupted; the same command goes on")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 1 on")
    return int(text)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _rerun(arguments: argparse.Namespace) -> int:
    if arguments.again and not arguments.final:
        raise ConfigError("--again: is for --final, which reads the test split")
    config, console = load_given(arguments).config, Console(stderr=True)
    with (
        locked(config),
        logging_into(config.folder / LOG_FILE, console),
        EventLog(config.folder / EVENTS_FILE) as log,
    ):
        sweep = load_given(arguments)  # again: now nobody else adds to it
        trial = chosen_trial(sweep, arguments.trial)
        if arguments.final and sweep.test_readings and not arguments.again:
            raise ConfigError(
                f"--final: the test split was read {_times(sweep.test_readings)} for sweep {sweep.name}; what is "
                "chosen by it is no longer measured by it. To read it again, which the model card will say: --again"
            )
        work = Verification(sweep, trial, log)
        finding: Finding
        if arguments.final:
            finding = work.final(arguments.seeds or 1)
        else:
            finding = work.seeds(arguments.seeds) if arguments.seeds else work.reproduce()
        print(finding.text)
        if config.report and (report := refresh_report(config)):
            print(f"report: {report}")
        sent = send(make_mlflow_sync(config, config.train.data.threshold))
    if not sent:
        print(f"MLflow has not got this; send it:  {own_command('sweep.sync')} {config.folder}", file=sys.stderr)
    return 1 if isinstance(finding, Reproduction) and not finding.identical else 0


if __name__ == "__main__":
    sys.exit(main())

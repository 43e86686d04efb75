"""python -m sweep.rerun NAME [--seeds 5] [--final]: the winner again; how far it is noise; what the test split says.

Without an option, the winner is trained again in this process, without Ray, and every epoch is compared. --seeds N
trains winner and runner-up with N other seeds. --final trains the winner on train + val, N times with --seeds N, and
reads the test split once. Everything is added to the sweep's MLflow run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from sweep import evidence
from sweep.command import RerunError, add_sweep_argument, carry_out, load_given
from sweep.events import Event, EventKind, EventLog
from sweep.evidence import Finding
from sweep.folder import EVENTS_FILE, LOG_FILE, REPORT_FILE, locked, logging_into, python_command, send
from sweep.loaded import Sweep
from sweep.provenance import provenance
from sweep.records import State, TrialRecord
from sweep.report import refresh_report
from sweep.reruns import Job, final_jobs, is_done, run_jobs, seed_jobs
from trainer.annotations import require_split
from trainer.metrics import FACES_FILE
from trainer.settings import ArgumentParser, ConfigError

if TYPE_CHECKING:
    from trainer.engine import EpochResult

BEST_WEIGHTS = "best.pt"  # trainer.checkpoint.BEST, without importing torch


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
    return carry_out(parser, lambda: _rerun(arguments), "interrupted; the same command goes on")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 1 on")
    return int(text)


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
        trial = _chosen(sweep, arguments.trial)
        if arguments.final and sweep.test_readings and not arguments.again:
            raise ConfigError(
                f"--final: the test split was read {_times(sweep.test_readings)} for sweep {sweep.name}; what is "
                "chosen by it is no longer measured by it. To read it again, which the model card will say: --again"
            )
        work = _Work(sweep, trial, log)
        if arguments.final:
            finding = work.final(arguments.seeds or 1)
        else:
            finding = work.seeds(arguments.seeds) if arguments.seeds else work.repeat()
        print(finding.text)
        if report := refresh_report(config):
            print(f"report: {report}")
        sent = send(config)
    if not sent:
        print(f"MLflow has not got this; send it:  {python_command()} -m sweep.sync {config.folder}", file=sys.stderr)
    return 0 if finding.metrics.get("rerun/identical", 1.0) == 1.0 else 1


def _chosen(sweep: Sweep, number: int | None) -> TrialRecord:
    trial = sweep.best if number is None else sweep.records.get(number)
    if trial is None:
        wanted = "no trial is complete" if number is None else f"there is no trial {number}"
        raise ConfigError(f"sweep {sweep.name}: {wanted}, of {len(sweep.records)}")
    if trial.state is not State.COMPLETE:
        raise ConfigError(f"--trial {number}: is {trial.state.value}; only a complete trial can be compared")
    return trial


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


class _Work:
    """What the three kinds of rerun do; each notes what it found."""

    def __init__(self, sweep: Sweep, trial: TrialRecord, log: EventLog) -> None:
        self._sweep, self._trial, self._log = sweep, trial, log

    def repeat(self) -> Finding:
        """The trial again."""
        return self._note(evidence.repeat(self._sweep, self._trial, self._tell))

    def seeds(self, count: int) -> Finding:
        """The trial and the best other one with other seeds."""
        others = [r for r in self._sweep.ranked if r.state is State.COMPLETE and r.number != self._trial.number]
        jobs = [seed_jobs(self._sweep, trial, count) for trial in (self._trial, *others[:1])]
        self._train([job for of in jobs for job in of], FACES_FILE)
        return self._note(evidence.seeds(jobs[0], jobs[1] if others else []))

    def final(self, count: int) -> Finding:
        """The trial on train + val; then, and noted before that, the test split is read."""
        jobs = final_jobs(self._sweep, self._trial, count)
        require_split(self._sweep.config.train.data, "test")  # or it would be missed after hours of training
        self._train(jobs, BEST_WEIGHTS)
        reading = {"reading": self._sweep.test_readings + 1, "networks": len(jobs)}
        self._log.append(Event(EventKind.TEST_READ, None, reading))
        return self._note(evidence.read_test(jobs))

    def _train(self, jobs: Sequence[Job], needed: str) -> None:
        waiting = [job for job in jobs if not is_done(job, self._sweep, needed)]
        if len(waiting) < len(jobs):
            self._say(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are there already")
        failures = run_jobs(self._sweep.config, waiting, self._log, self._say) if waiting else {}
        if failures:
            raise RerunError("; ".join(f"{run}: {reason}" for run, reason in failures.items()))

    def _note(self, finding: Finding) -> Finding:
        detail = {**finding.detail, "provenance": provenance()}
        tags = {f"finding.{finding.about}": finding.text}
        data = {"about": finding.about, "metrics": finding.metrics, "detail": detail, "tags": tags}
        if self._sweep.config.report:
            data["artifacts"] = [str(self._sweep.folder / REPORT_FILE)]
        self._log.append(Event(EventKind.FINDING, None, data))
        return finding

    def _tell(self, result: EpochResult) -> None:
        epochs, row = self._sweep.config.train.optim.epochs, result.metrics
        self._say(f"epoch {result.epoch}/{epochs}: loss {row['train/loss']:.4f}, val NME {row['val/nme']:.2%}")

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

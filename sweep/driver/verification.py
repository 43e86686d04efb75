"""Verifies the winner: trains it again, with other seeds, and measures it on the test split."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from sweep.analysis import rerun_evaluation
from sweep.analysis.findings import FinalTest, Finding, Reproduction, SeedStudy
from sweep.analysis.rerun_jobs import Job, final_jobs, is_done, seed_jobs
from sweep.analysis.sweep_result import SweepResult
from sweep.core.errors import RerunError
from sweep.core.provenance import provenance
from sweep.core.trial import State, TrialRecord
from sweep.driver.rerun_executor import run_jobs
from sweep.storage.event_log import Event, EventKind, EventLog
from sweep.storage.sweep_folder import REPORT_FILE
from trainer.data.face_table import require_split
from trainer.data.survey import trained_on
from trainer.errors import ConfigError
from trainer.run_folder import BEST, FACES_FILE

if TYPE_CHECKING:
    from trainer.engine import EpochResult


def chosen_trial(sweep: SweepResult, number: int | None) -> TrialRecord:
    """The trial of this number, or the winner.

    Raises:
        ConfigError: there is no such trial, or it is not complete.
    """
    trial = sweep.best if number is None else sweep.records.get(number)
    if trial is None:
        wanted = "no trial is complete" if number is None else f"there is no trial {number}"
        raise ConfigError(f"sweep {sweep.name}: {wanted}, of {len(sweep.records)}")
    if trial.state is not State.COMPLETE:
        raise ConfigError(f"--trial {number}: is {trial.state.value}; only a complete trial can be compared")
    return trial


F = TypeVar("F", bound=Finding)


class Verification:
    """The three kinds of rerun of a complete trial; each records what it found in the event log."""

    def __init__(self, sweep: SweepResult, trial: TrialRecord, log: EventLog) -> None:
        self._sweep, self._trial, self._log = sweep, trial, log

    def reproduce(self) -> Reproduction:
        """Trains the trial again."""
        return self._record(rerun_evaluation.reproduce(self._sweep, self._trial, self._tell))

    def seeds(self, count: int) -> SeedStudy:
        """Trains the trial and the best other one with other seeds."""
        others = [r for r in self._sweep.ranked if r.state is State.COMPLETE and r.number != self._trial.number]
        jobs = [seed_jobs(self._sweep, trial, count) for trial in (self._trial, *others[:1])]
        self._train([job for of in jobs for job in of], FACES_FILE)
        return self._record(rerun_evaluation.compare_seeds(jobs[0], jobs[1] if others else []))

    def final(self, count: int) -> FinalTest:
        """Trains the trial on train + val; then reads the test split, which is recorded before it happens."""
        jobs = final_jobs(self._sweep, self._trial, count)
        require_split(self._sweep.config.train.data, "test")  # before hours of training
        overlap = trained_on(jobs[0].config.data, "test")
        self._train(jobs, BEST)
        reading = {"reading": self._sweep.test_readings + 1, "networks": len(jobs)}
        self._log.append(Event(EventKind.TEST_READ, None, reading))
        return self._record(rerun_evaluation.read_test(jobs, overlap))

    def _train(self, jobs: Sequence[Job], needed: str) -> None:
        waiting = [job for job in jobs if not is_done(job, self._sweep, needed)]
        if len(waiting) < len(jobs):
            self._say(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are there already")
        failures = run_jobs(self._sweep, waiting, self._log, self._say) if waiting else {}
        if failures:
            raise RerunError("; ".join(f"{run}: {reason}" for run, reason in failures.items()))

    def _record(self, finding: F) -> F:
        detail = {**finding.detail(), "provenance": provenance()}
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

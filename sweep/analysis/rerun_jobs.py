"""The jobs of `sweep.rerun`: configs to train again, and which of them are done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sweep.analysis.sweep_result import SweepResult
from sweep.core.trial import State, TrialRecord
from trainer.config import TrainConfig

SEED, FINAL = "seed", "final"  # purposes


@dataclass(frozen=True)
class Job:
    """A config to train, as `run` of the sweep's folder reruns/."""

    run: str
    purpose: str
    of: TrialRecord
    config: TrainConfig

    @property
    def folder(self) -> Path:
        return Path(str(self.config.run.output))


def seed_jobs(sweep: SweepResult, trial: TrialRecord, seeds: int) -> list[Job]:
    """The trial with the next `seeds` seeds after the sweep's own, which the winner was selected on."""
    base = sweep.config.train.run.seed
    return [_job(sweep, SEED, trial, base + i, {}) for i in range(1, seeds + 1)]


def final_jobs(sweep: SweepResult, trial: TrialRecord, seeds: int) -> list[Job]:
    """The trial's config on train + val, with `seeds` seeds starting at the sweep's own."""
    base = sweep.config.train.run.seed
    return [_job(sweep, FINAL, trial, base + i, {"data.train_on": "train+val"}) for i in range(seeds)]


def _job(sweep: SweepResult, purpose: str, trial: TrialRecord, seed: int, changes: dict[str, object]) -> Job:
    run = f"{purpose}-{trial.number:04d}-{seed}"
    folder = sweep.config.rerun_folder(run)
    config = sweep.config.best_config(trial.params).replace({**changes, "run.seed": seed, "run.output": str(folder)})
    return Job(run, purpose, trial, config)


def is_done(job: Job, sweep: SweepResult, needed: str) -> bool:
    """Whether the job is complete, with the same config, and its file `needed` exists."""
    known = sweep.reruns.get(job.run)
    same = known is not None and known.state is State.COMPLETE and known.config.identity() == job.config.identity()
    return same and (job.folder / needed).exists()

"""Sections of a sweep's config: each package takes the one that says what it may depend on.

`SearchConfig` and `SweepConfig`, which is all of them, are in `sweep.core.config`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from trainer.settings import Section


class SamplerConfig(Section):
    name: Literal["rank_gp", "tpe", "gp", "cmaes", "random", "grid"] = Field(
        "rank_gp",
        description="who suggests the next trial: rank_gp, a Gaussian process on the ranks of trials; cmaes, CMA-ES on "
        "them; tpe, gp or random, of Optuna; grid: all points of a space of choices and integers",
    )
    startup_trials: int | None = Field(
        None,
        ge=1,
        description="first design: trials before any goes on or is learnt from; null: 14, at most half [trials]",
    )
    random_share: float = Field(0.15, ge=0, le=1, description="trials that are drawn at random all the same [fraction]")


class PrunerConfig(Section):
    name: Literal["successive_halving", "median", "none"] = Field(
        "successive_halving", description="who pauses or stops trials early"
    )
    pause: bool = Field(
        True, description="halving: pause trials, to go on when they prove to be good; false: stop for good"
    )
    paused: int = Field(20, ge=1, description="paused trials whose whole state is kept on disk, the best [trials]")
    min_epochs: int | None = Field(
        None, ge=1, description="first epoch at which trials are compared; null: 1/27 of them all, at least 2 [epochs]"
    )
    reduction: int = Field(3, ge=2, description="halving: 1 in so many goes on, to a rung so much later")
    startup_trials: int = Field(4, ge=1, description="median: others needed at an epoch before it stops any [trials]")

    @property
    def pauses(self) -> bool:
        """Whether trials are paused rather than stopped."""
        return self.pause and self.name == "successive_halving"


class RepeatsConfig(Section):
    share: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="of the budget, at most, for the best again with other seeds, while noise hides which is best; 0 "
        "if a run of each is too much [fraction]",
    )
    candidates: int = Field(3, ge=2, description="configurations that are trained again [configurations]")
    runs: int = Field(4, ge=2, description="most runs of each, its first included [runs]")


class LimitsConfig(Section):
    memory_gb: float | None = Field(None, gt=0, description="memory that a trial may take (GPU's, else its own) [GB]")
    step_seconds: float | None = Field(None, gt=0, description="time that a pass of one batch may take [seconds]")

    @property
    def given(self) -> bool:
        """Whether any limit is set."""
        return self.memory_gb is not None or self.step_seconds is not None


class ResourcesConfig(Section):
    workers: int = Field(
        1, ge=1, le=64, description="processes that train a trial together, sharing out its batches [processes]"
    )
    cpus: float = Field(1.0, ge=0, description="CPUs a worker asks Ray for; its network gets as many threads [CPUs]")
    gpus: float = Field(0.0, ge=0, description="GPUs a worker asks Ray for; fractions share one [GPUs]")

    @model_validator(mode="after")
    def _fits_together(self) -> ResourcesConfig:
        if self.workers > 1 and not float(self.gpus).is_integer():
            raise ValueError(
                f"resources.gpus = {self.gpus:g}: workers of one trial do not share a GPU (use a whole one)"
            )
        return self

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of a worker, by Ray's names."""
        return {name: value for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value}


class StorageConfig(Section):
    """Where a sweep keeps its files."""

    name: str = Field(
        "demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="name of the sweep: of its folder under output, its study and its MLflow run",
    )
    output: str = Field("outputs", description="folder that holds the folders of sweeps [path]")
    study: str | None = Field(None, description="database of the study; null: study.db in the sweep's folder [URL]")
    storage: str | None = Field(
        None,
        description="where machines without a common disk keep the files of trials (s3://BUCKET/PREFIX, gs://..., or "
        "a folder that all see); null: in output, which all must see [URI]",
    )

    @functools.cached_property
    def folder(self) -> Path:
        """The sweep's folder, absolute, since trials change their working directory."""
        return (Path(self.output) / self.name).resolve()

    def trial_folder(self, number: int) -> Path:
        """The run folder of one trial."""
        return self.folder / "trials" / f"{number:04d}"

    def rerun_folder(self, run: str) -> Path:
        """The run folder of a rerun."""
        return self.folder / "reruns" / run


class BudgetConfig(Section):
    """What a sweep may cost, and what each trial of it takes."""

    trials: int | None = Field(20, ge=1, description="budget: trials, whatever their state; null: any number [trials]")
    epochs: int | None = Field(None, ge=1, description="budget: epochs of all trials together; null: any [epochs]")
    hours: float | None = Field(None, gt=0, description="budget: time of one call; null: any [hours]")
    device_hours: float | None = Field(
        None, gt=0, description="budget: training time of all trials x their GPUs (without: x 1); null: any [hours]"
    )
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if all(limit is None for limit in (self.trials, self.epochs, self.hours, self.device_hours)):
            raise ValueError("trials, epochs, hours, device_hours = null: one of them must end the sweep")
        return self


class ExecutionConfig(BudgetConfig, StorageConfig):
    """How trials are run: slots, machines, crashes."""

    slots: int | None = Field(None, ge=1, description="trials at the same time; null: as many as fit [trials]")
    retries: int = Field(2, ge=0, description="restarts of a crashed trial from its checkpoint [times]")
    timeout_minutes: float | None = Field(
        120.0, gt=0, description="a trial without a report for so long counts as crashed; null: never [minutes]"
    )
    ray_address: str | None = Field(None, description="Ray cluster (auto or HOST:PORT); null: this machine")


class TrackingConfig(StorageConfig):
    """Where MLflow shows a sweep."""

    mlflow_uri: str | None = Field(None, description="MLflow store; null: mlflow.db in output [URI]")
    mlflow_experiment: str = Field("starsweep", min_length=1, description="MLflow experiment")

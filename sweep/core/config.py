"""SweepConfig: search space, sampler, budget, resources and outputs. Strict and frozen like the trainer's config."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sweep.core.redaction import redact
from sweep.core.search_space import Dimension, all_points, check_params, parse_space
from sweep.core.trial import Params, TrialRecord
from trainer import settings
from trainer.config import WITHOUT_EFFECT, TrainConfig
from trainer.errors import ConfigError
from trainer.metric_names import rate_names
from trainer.settings import Section, Tree

_DECISIVE = {"train", "space", "known", "sampler", "pruner", "repeats", "objectives", "limits", "seed"}


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


class SweepConfig(Section):
    """One sweep: `train` is the base config of every trial, `space` the settings of it that are searched."""

    name: str = Field(
        "demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="name of the sweep: of its folder under output, its study and its MLflow run",
    )
    output: str = Field("outputs", description="folder that holds the folders of sweeps [path]")
    trials: int | None = Field(20, ge=1, description="budget: trials, whatever their state; null: any number [trials]")
    epochs: int | None = Field(None, ge=1, description="budget: epochs of all trials together; null: any [epochs]")
    hours: float | None = Field(None, gt=0, description="budget: time of one call; null: any [hours]")
    device_hours: float | None = Field(
        None, gt=0, description="budget: training time of all trials x their GPUs (without: x 1); null: any [hours]"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the suggestions [integer]")
    slots: int | None = Field(None, ge=1, description="trials at the same time; null: as many as fit [trials]")
    retries: int = Field(2, ge=0, description="restarts of a crashed trial from its checkpoint [times]")
    timeout_minutes: float | None = Field(
        120.0, gt=0, description="a trial without a report for so long counts as crashed; null: never [minutes]"
    )
    keep: int = Field(3, ge=1, description="best trials whose weights are kept on disk [trials]")
    study: str | None = Field(None, description="database of the study; null: study.db in the sweep's folder [URL]")
    mlflow_uri: str | None = Field(None, description="MLflow store; null: mlflow.db in output [URI]")
    mlflow_experiment: str = Field("starsweep", min_length=1, description="MLflow experiment")
    ray_address: str | None = Field(None, description="Ray cluster (auto or HOST:PORT); null: this machine")
    storage: str | None = Field(
        None,
        description="where machines without a common disk keep the files of trials (s3://BUCKET/PREFIX, gs://..., or "
        "a folder that all see); null: in output, which all must see [URI]",
    )
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    repeats: RepeatsConfig = RepeatsConfig()
    objectives: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        ("nme",),
        description="what is minimised: nme, then perhaps the failure rate by its name (fr10; fr8 where "
        "data.nme_threshold is 0.08) or images_per_second (which is maximised)",
    )
    limits: LimitsConfig = LimitsConfig()
    resources: ResourcesConfig = ResourcesConfig()
    space: dict[str, dict[str, Any]] = Field(description="setting of train -> kind and values [mapping]")
    report: bool = Field(True, description="write report.html at the end of the sweep")
    known: list[dict[str, Any]] = Field([], description="configurations tried first [list of mappings]")
    warm_start: list[str] = Field(
        [], description="earlier sweeps, names or folders: the three best of each are tried after the known ones"
    )
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> SweepConfig:
        if self.train.data.train_on != "train":
            raise ValueError(
                f"train.data.train_on = {self.train.data.train_on!r}: trials are judged on the validation faces, and "
                "never trained on them (sweep.rerun --final does that with the winner)"
            )
        dimensions = self.dimensions  # checked even where no known configuration is
        for i, params in enumerate(self.known):
            check_params(params, dimensions, self._searched, f"known[{i}]")
        if self.objectives[:1] != ("nme",) or len(set(self.objectives)) != len(self.objectives) > 2:
            raise ValueError(f"objectives = {list(self.objectives)}: must be nme, alone or with one other")
        known = ("nme", rate_names(self.train.data.threshold)[0], "images_per_second")
        if unknown := [name for name in self.objectives if name not in known]:
            raise ValueError(f"objectives = {list(self.objectives)}: {unknown[0]} is not among {', '.join(known)}")
        if all(limit is None for limit in (self.trials, self.epochs, self.hours, self.device_hours)):
            raise ValueError("trials, epochs, hours and device_hours are null: one of them must end the sweep")
        if self.sampler.name == "grid":
            all_points(dimensions)
        return self

    @functools.cached_property
    def points(self) -> int | None:
        """Number of configurations in the space; None if it is infinite or very large."""
        try:
            return len(all_points(self.dimensions))
        except ConfigError:
            return None

    @functools.cached_property
    def trials_known(self) -> list[Params]:
        """Given parameters of the first trials; with a grid, those of all trials in a seeded order."""
        if self.sampler.name != "grid":
            return list(map(dict, self.known))
        points = all_points(self.dimensions)
        random.Random(self.seed).shuffle(points)
        return points

    @functools.cached_property  # the check tries hundreds of configs, and the live table asks twice a second
    def dimensions(self) -> tuple[Dimension, ...]:
        """The search space, checked against the trainer's config."""
        return parse_space(self.space, self._searched)

    @property
    def _searched(self) -> TrainConfig | None:
        """The config whose settings are searched; None if this project's trainer does not have them."""
        return self.train

    @functools.cached_property
    def folder(self) -> Path:
        """The sweep's folder, absolute, since trials change their working directory."""
        return (Path(self.output) / self.name).resolve()

    def with_train(self, train: TrainConfig) -> SweepConfig:
        """A copy with another base config."""
        return self.model_copy(update={"train": train})

    def trial_config(self, trial: TrialRecord) -> TrainConfig:
        """The complete config of one trial."""
        seed = {} if trial.seed is None else {"run.seed": trial.seed}
        return self.train.replace({**trial.params, **seed, "run.output": str(self.trial_folder(trial.number))})

    def trial_folder(self, number: int) -> Path:
        """The run folder of one trial."""
        return self.folder / "trials" / f"{number:04d}"

    def rerun_folder(self, run: str) -> Path:
        """The run folder of a rerun."""
        return self.folder / "reruns" / run

    def best_config(self, params: Params) -> TrainConfig:
        """A trial's config for a standalone rerun, which has a run folder of its own."""
        return self.train.replace({**params, "run.output": None})

    def decisive(self) -> Tree:
        """The settings that decide which trials a study holds; a study is only continued with the same ones."""
        tree = self.model_dump(mode="json", include=_DECISIVE)
        for section, keys in WITHOUT_EFFECT.items():
            for key in keys:
                tree["train"][section].pop(key)
        return tree

    def tree(self) -> Tree:
        """Returns the plain nested mapping that `load_sweep` reads back, without the passwords of its URLs."""
        tree = self.model_dump(mode="json")
        return tree | {key: redact(tree[key]) for key in ("study", "mlflow_uri", "storage") if tree[key]}

    def dump(self, path: Path) -> None:
        """Writes the config as YAML, without passwords."""
        settings.write_yaml(self.tree(), path)


def in_todays_words(tree: Tree) -> Tree:
    """Settings that an earlier version wrote, without those that no longer exist.

    Hyperband's brackets had the rungs of successive halving, each bracket without the first ones of the one before.
    """
    pruner = tree.get("pruner")
    if not isinstance(pruner, dict):
        return tree
    kept = {key: value for key, value in pruner.items() if key != "brackets"}
    if kept.get("name") == "hyperband":
        kept["name"] = "successive_halving"
    return {**tree, "pruner": kept}


def with_younger(old: Tree) -> Tree:
    """The decisive settings of an old study, with the defaults of settings that are newer than it.

    The default of a setting is what was done before the setting existed.
    """
    old, fields = in_todays_words(old), SweepConfig.model_fields.items()
    defaults = {key: info.default.model_dump(mode="json") for key, info in fields if isinstance(info.default, Section)}
    return _filled(old, {key: defaults[key] for key in old if key in defaults})


def _filled(tree: Tree, defaults: Tree) -> Tree:
    nested = {
        key: _filled(tree[key], value)
        for key, value in defaults.items()
        if isinstance(value, dict) and isinstance(tree.get(key), dict)
    }
    return {**defaults, **tree, **nested}


def differences(old: Tree, new: Tree, prefix: str = "") -> list[str]:
    """Lines 'optim.epochs: 12 -> 16' for all that differs between two trees."""
    lines: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        a, b, name = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{name}.")
        elif a != b:
            lines.append(f"{name}: {a!r} -> {b!r}")
    return lines

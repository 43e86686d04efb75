"""The config of a sweep: the search, and the whole with all sections. Strict and frozen like the trainer's config."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from sweep.core.redaction import redact
from sweep.core.search_space import Dimension, all_points, check_params, parse_space
from sweep.core.sections import (
    BudgetConfig,
    ExecutionConfig,
    LimitsConfig,
    PrunerConfig,
    RepeatsConfig,
    SamplerConfig,
    StorageConfig,
    TrackingConfig,
)
from sweep.core.trial import Params, TrialRecord
from trainer import settings
from trainer.config import WITHOUT_EFFECT, TrainConfig
from trainer.errors import ConfigError
from trainer.metric_names import rate_names
from trainer.settings import Section, Tree

_DECISIVE = {"train", "space", "known", "sampler", "pruner", "repeats", "objectives", "limits", "seed"}


class SearchConfig(BudgetConfig, StorageConfig):
    """What is searched and how: `train` is the base config of every trial, `space` the settings of it that vary."""

    seed: int = Field(0, ge=0, lt=2**32, description="seed of the suggestions [integer]")
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    repeats: RepeatsConfig = RepeatsConfig()
    objectives: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        ("nme",),
        description="what is minimised: nme, then perhaps the failure rate by its name (fr10; fr8 where "
        "data.nme_threshold is 0.08) or images_per_second (which is maximised)",
    )
    limits: LimitsConfig = LimitsConfig()
    space: dict[str, dict[str, Any]] = Field(description="setting of train -> kind and values [mapping]")
    known: list[dict[str, Any]] = Field([], description="configurations tried first [list of mappings]")
    warm_start: list[str] = Field(
        [], description="earlier sweeps, names or folders: the three best of each are tried after the known ones"
    )
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _is_searchable(self) -> Self:
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

    def with_train(self, train: TrainConfig) -> Self:
        """A copy with another base config."""
        return self.model_copy(update={"train": train})

    def trial_config(self, trial: TrialRecord) -> TrainConfig:
        """The complete config of one trial."""
        seed = {} if trial.seed is None else {"run.seed": trial.seed}
        return self.train.replace({**trial.params, **seed, "run.output": str(self.trial_folder(trial.number))})

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


class SweepConfig(SearchConfig, ExecutionConfig, TrackingConfig):
    """One sweep, whole: only the driver and the commands know it; packages take the section that is theirs."""

    keep: int = Field(3, ge=1, description="best trials whose weights are kept on disk [trials]")
    report: bool = Field(True, description="write report.html at the end of the sweep")

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

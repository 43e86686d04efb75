"""TrainConfig: everything that decides a training run, typed, frozen, with the defaults written once.

A resolved config (see `trainer.form_speed.resolve`) is written into every run folder and is enough to repeat the run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from trainer import settings
from trainer.cores import cores_per_process
from trainer.data_config import DataConfig
from trainer.settings import NotSearched, Section, Tree, refuse_without_effect

WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "run": ("output", "checkpoint_seconds"),
    "data": ("cache_dir", "workers"),
}  # on any number
_COMPARED = NotSearched("trials are compared epoch by epoch, so all must have as many")
# younger than the hashes of old studies and checkpoints, which stay what they were where these are at their defaults
_YOUNGER: dict[str, tuple[str, ...]] = {
    "data": ("train_on", "group_by", "skip_at_most", "allow_overlap", "placeholders", "nme_norm", "nme_threshold")
}


class ModelConfig(Section):
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = Field(
        "resnet50", description="torchvision ResNet"
    )
    pretrained: str = Field("none", description="none | imagenet | path of a state dict of the backbone")
    head: Literal["pyramid", "deconv", "regression"] = Field(
        "pyramid", description="pyramid and deconv give heatmaps (pyramid: stride 4), regression gives coordinates"
    )
    width: int = Field(128, ge=8, le=1024, description="channels of the pyramid or of each deconvolution [channels]")
    deconv_layers: int = Field(3, ge=1, le=4, description="number of deconvolutions; 3 give stride 4 [layers]")

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.head != "deconv":
            refuse_without_effect(self, "deconv_layers", "model", f"model.head {self.head} has no deconvolutions")
        if self.head == "regression":
            refuse_without_effect(self, "width", "model", "model.head regression has no head channels")
        return self


class LossConfig(Section):
    name: Literal["star", "smooth_l1", "wing", "soft_wing"] = Field("star", description="loss of the landmarks")
    star_weight: float = Field(1.0, ge=0, description="weight of STAR's eigenvalue term (the paper's code: star_w)")
    distance: Literal["smooth_l1", "l1", "l2", "wing"] = Field("smooth_l1", description="distance inside STAR")

    @model_validator(mode="after")
    def _fits_together(self) -> LossConfig:
        if self.name != "star":
            for name in ("star_weight", "distance"):
                refuse_without_effect(self, name, "loss", f"loss.name {self.name} has no such term")
        return self


class OptimConfig(Section):
    name: Literal["adam", "adamw"] = Field("adam", description="optimizer")
    lr: float = Field(5e-4, gt=0, description="learning rate at the top of the schedule [1]")
    weight_decay: float = Field(0.0, ge=0, description="weight decay (adam: L2 term, adamw: decoupled) [1]")
    epochs: Annotated[int, _COMPARED] = Field(30, ge=1, description="passes over the training faces [epochs]")
    batch_size: int = Field(32, ge=1, description="faces a forward pass [faces]")
    accumulate: int = Field(1, ge=1, description="passes an optimizer step; batch_size x this = global batch [passes]")
    warmup_steps: int = Field(0, ge=0, description="linear warm-up of the learning rate [optimizer steps]")
    warmup_from: float = Field(0.001, ge=0, le=1, description="where the warm-up starts [fraction of lr]")
    schedule: Literal["cosine", "multistep", "constant"] = Field(
        "cosine", description="learning rate after the warm-up"
    )
    milestones: Annotated[tuple[int, ...], Field(strict=False)] = Field(
        (), description="epochs after which a multistep learning rate is multiplied by gamma [epochs]"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="factor at a milestone [fraction]")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm; null: no clipping [1]")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of averaged weights, evaluated instead; 0: off [1]")

    @model_validator(mode="after")
    def _fits_together(self) -> OptimConfig:
        if self.schedule != "multistep":
            for name in ("milestones", "gamma"):
                refuse_without_effect(self, name, "optim", f"optim.schedule {self.schedule} has no milestones")
        elif not self.milestones:
            refuse_without_effect(self, "gamma", "optim", "optim.milestones is empty")
        elif list(self.milestones) != sorted(set(self.milestones)) or not all(
            0 < m < self.epochs for m in self.milestones
        ):
            raise ValueError(
                f"optim.milestones = {list(self.milestones)}: must rise and lie between 1 and "
                f"optim.epochs - 1 ({self.epochs - 1})"
            )
        if self.warmup_steps == 0:
            refuse_without_effect(self, "warmup_from", "optim", "optim.warmup_steps is 0")
        return self


class RunConfig(Section):
    output: str | None = Field(None, description="run folder; null: runs/<name of the config> [path]")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, order of faces and augmentation [integer]")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="CPU threads of the network, a process; null: its share of all, written down at start [threads]",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the network, the loss is always float32; auto: the fastest here, float16 on GPUs only"
    )
    channels_last: Literal["auto"] | bool = Field(
        "auto", description="memory layout NHWC instead of NCHW; auto: the fastest here"
    )
    compile: bool = Field(False, description="torch.compile the network: a slow first step, then faster on GPUs")
    flip_test: bool = Field(True, description="evaluate with the mirrored face averaged in")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="whole state written at the first end of an epoch so long after the last time [seconds]"
    )


class TrainConfig(Section):
    """One training run. Frozen; unknown keys, wrong types and values out of range are errors."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        if self.loss.name == "star" and self.model.head == "regression":
            raise ValueError(
                "loss.name = 'star': needs a heatmap, whose spread it weighs; model.head regression gives coordinates "
                "only (allowed there: smooth_l1, wing, soft_wing)"
            )
        if not self.fits_batch_norm(self.data.train_faces or self.optim.batch_size):
            name = "optim.batch_size" if self.optim.batch_size == 1 else "data.train_faces"
            raise ValueError(
                f"{name} = 1: batch norm needs two values a channel, and at "
                "data.image_size 32 the last stage of the network has one a face (allowed: two faces, or 64 pixels)"
            )
        return self

    def fits_batch_norm(self, faces: int) -> bool:
        """Whether a batch out of so many faces has two values a channel in the network's last, smallest stage."""
        return min(self.optim.batch_size, faces) * (self.data.image_size // 32) ** 2 >= 2

    @classmethod
    def load(cls, path: str | Path | None, overrides: Mapping[str, str] | None = None) -> TrainConfig:
        """Reads a YAML file (None: defaults) and applies overrides such as {'optim.lr': '3e-4'}.

        Raises:
            ConfigError: a field that does not fit, with value, what is allowed and the nearest valid key.
        """
        return settings.load(cls, path, overrides)

    @classmethod
    def from_tree(cls, tree: Tree, origin: str = "train config") -> TrainConfig:
        """Builds a config from a nested mapping; raises ConfigError with `origin` in front."""
        return settings.build(cls, tree, origin)

    def tree(self) -> Tree:
        """Returns the plain nested mapping that `from_tree` reads back."""
        return self.model_dump(mode="json")

    def dump(self, path: str | Path) -> None:
        """Writes the config as YAML that `load` reads back."""
        settings.write_yaml(self.tree(), path)

    def replace(self, values: Mapping[str, object]) -> TrainConfig:
        """Returns a copy with fields such as 'optim.lr' set, checked like any other config."""
        tree = self.tree()
        for key, value in values.items():
            settings.set_key(tree, key, value)
        return self.from_tree(tree)

    def with_threads(self) -> TrainConfig:
        """Returns the config with the number of threads written down."""
        return self if self.run.threads else self.replace({"run.threads": cores_per_process()})

    def identity(self) -> str:
        """Hash of all that decides the numbers, which places, checkpoints and loader threads do not."""
        tree = self.tree()
        for section, keys in WITHOUT_EFFECT.items():
            for key in keys:
                tree[section].pop(key)
        for section, keys in _YOUNGER.items():
            known = type(getattr(self, section)).model_fields
            for key in keys:
                if tree[section][key] == known[key].default:
                    tree[section].pop(key)
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]

"""TrainConfig: everything that decides a training run, typed, frozen, with the defaults written once.

A resolved config (see `trainer.form_speed.resolve`) is written into every run folder and is enough to repeat the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from trainer import settings
from trainer.cores import cores_per_process
from trainer.landmarks import LAYOUTS, Layout, Norm
from trainer.settings import NotSearched, Section, Tree

LayoutName = Literal["wflw98", "w300_68", "cofw29", "aflw19"]
Placeholders = Literal["refuse", "missing", "merl_rav", "keep"]
WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "run": ("output", "checkpoint_seconds"),
    "data": ("cache_dir", "workers"),
}  # on any number
_JUDGES = NotSearched("it decides on which faces trials are judged, and all are judged on the same")
_MEASURES = NotSearched("it decides what the numbers mean that trials are judged by")
_TRAINED_ON = NotSearched("trials are judged on the validation faces, and never trained on them")
_COMPARED = NotSearched("trials are compared epoch by epoch, so all must have as many")
_NO_NUMBER = NotSearched("it changes no number")
_LAYOUT_OF_KIND: dict[str, LayoutName] = {
    "synthetic": "wflw98",
    "wflw": "wflw98",
    "w300": "w300_68",
    "coco": "wflw98",
}
_OF_FILES = ["root", "train_list", "val_list", "test_list", "val_fraction", "split_seed", "group_by"]
_OF_FILES += ["skip_bad", "skip_at_most", "allow_overlap", "placeholders"]
# younger than the hashes of old studies and checkpoints, which stay what they were where these are at their defaults
_YOUNGER: dict[str, tuple[str, ...]] = {
    "data": ("train_on", "group_by", "skip_at_most", "allow_overlap", "placeholders", "nme_norm", "nme_threshold")
}


def _refuse(section: Section, name: str, prefix: str, reason: str) -> None:
    """A knob without effect must not look as if it had one."""
    value, default = getattr(section, name), type(section).model_fields[name].default
    if value != default:
        raise ValueError(f"{prefix}.{name} = {value!r}: cannot apply, {reason} (leave it at {default!r})")


class AugmentConfig(Section):
    flip: float = Field(0.5, ge=0, le=1, description="probability of mirroring a face [probability]")
    rotation: float = Field(20.0, ge=0, le=180, description="rotation, uniform within +- this [degrees]")
    scale: float = Field(0.2, ge=0, lt=1, description="enlargement, uniform within 1 +- this [fraction]")
    shift: float = Field(0.05, ge=0, le=0.5, description="shift in x and y, within +- this [fraction of the crop]")
    colour: float = Field(0.3, ge=0, le=1, description="strength of brightness, contrast and colour changes [fraction]")
    occlusion: float = Field(0.1, ge=0, le=1, description="probability of a covering patch [probability]")
    blur: float = Field(0.1, ge=0, le=1, description="probability of a Gaussian blur [probability]")


class DataConfig(Section):
    kind: Annotated[Literal["synthetic", "wflw", "w300", "coco"], _JUDGES] = Field(
        "synthetic", description="reader of the faces"
    )
    root: Annotated[str | None, _JUDGES] = Field(None, description="folder of the data set (none for synthetic) [path]")
    layout: Annotated[LayoutName | None, _JUDGES] = Field(
        None, description="landmark layout; null: that of the reader (coco: wflw98)"
    )
    train_list: Annotated[str | None, _JUDGES] = Field(
        None, description="training list under root; null: the reader's usual name [path]"
    )
    val_list: Annotated[str | None, _JUDGES] = Field(
        None, description="validation list; null: val_fraction is cut from training [path]"
    )
    test_list: Annotated[str | None, _JUDGES] = Field(
        None, description="list of test faces; null: the reader's usual name [path]"
    )
    train_on: Annotated[Literal["train", "train+val"], _TRAINED_ON] = Field(
        "train", description="faces trained on; train+val: for a final model, which no validation judges any more"
    )
    val_fraction: Annotated[float, _JUDGES] = Field(
        0.1, gt=0, lt=1, description="share of training groups cut for validation [fraction]"
    )
    split_seed: Annotated[int, _JUDGES] = Field(
        0, ge=0, lt=2**63, description="seed of that cut and of the *_faces samples [integer]"
    )
    group_by: Annotated[str, _JUDGES] = Field(
        "auto",
        description="what that cut leaves whole: picture, folder, field:NAME of a json, or a regular expression whose "
        "first group names it; auto: videos, persons and photographs as names tell them, else pictures",
    )
    train_faces: int | None = Field(None, ge=1, description="training faces used; null: all (synthetic: 1600) [faces]")
    val_faces: Annotated[int | None, _JUDGES] = Field(
        None, ge=1, description="validation faces used; null: all (synthetic: 200) [faces]"
    )
    test_faces: Annotated[int | None, _JUDGES] = Field(
        None, ge=1, description="test faces used; null: all (synthetic: 300) [faces]"
    )
    synthetic_seed: Annotated[int, _JUDGES] = Field(
        0, ge=0, lt=2**63, description="seed of the procedural faces [integer]"
    )
    skip_bad: Annotated[bool, _JUDGES] = Field(
        False, description="leave out and count faulty faces instead of stopping at the first"
    )
    skip_at_most: Annotated[float, _JUDGES] = Field(
        0.05, ge=0, le=1, description="skip_bad: largest share of a list that may be faulty [fraction]"
    )
    allow_overlap: Annotated[bool, _JUDGES] = Field(
        False, description="allow a test on pictures that were trained on; the card says so"
    )
    placeholders: Annotated[Placeholders, _JUDGES] = Field(
        "refuse",
        description="landmarks with no coordinate above 0; merl_rav: -1 -1 is missing, -x -y covered at x y",
    )
    nme_norm: Annotated[Literal["inter_ocular", "inter_pupil", "box"] | None, _MEASURES] = Field(
        None, description="what divides the NME; null: that of the layout's tables (aflw19: box, else inter_ocular)"
    )
    nme_threshold: Annotated[float | None, _MEASURES] = Field(
        None, gt=0, le=1, description="NME of failure rate and AUC; null: that of the layout's tables [fraction]"
    )
    image_size: int = Field(256, ge=32, le=1024, multiple_of=32, description="side of the network's input [pixels]")
    box_scale: float = Field(1.25, ge=1, le=4, description="enlargement of the face box before cropping [factor]")
    crop_margin: float = Field(
        0.25, ge=0, le=2, description="surroundings kept for augmentation [fraction of the crop]"
    )
    cache_dir: Annotated[str | None, _NO_NUMBER] = Field(
        None, description="folder of the crop cache; null: the user's cache folder [path]"
    )
    workers: Annotated[int, _NO_NUMBER] = Field(
        1, ge=0, le=64, description="threads preparing batches; 0: in the training loop [threads]"
    )
    augment_on: Literal["cpu", "device"] = Field(
        "cpu", description="where pictures are augmented; device: by the GPU, for CPUs that cannot keep up"
    )
    augment: AugmentConfig = AugmentConfig()

    @property
    def landmarks(self) -> Layout:
        """The layout of the landmarks."""
        return LAYOUTS[self.layout or _LAYOUT_OF_KIND[self.kind]]

    @property
    def norm(self) -> Norm:
        """What divides the NME."""
        return self.landmarks.norm(self.nme_norm)

    @property
    def threshold(self) -> float:
        """The NME of failure rate and AUC."""
        return self.nme_threshold or self.landmarks.threshold

    @property
    def cache_folder(self) -> Path:
        """The folder that holds the crop cache."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(self.cache_dir).expanduser() if self.cache_dir else Path(home) / "starsweep"

    @field_validator("group_by")
    @classmethod
    def _is_a_way_to_group(cls, how: str) -> str:
        if how in ("auto", "picture", "folder") or (how.startswith("field:") and len(how) > len("field:")):
            return how
        try:
            if "(" in how and re.compile(how).groups:
                return how
            reason = "has no group ( )"
        except re.error as error:
            reason = f"is no regular expression ({error})"
        raise ValueError(f"{how!r}: must be auto, picture, folder, field:NAME or a regular expression, but {reason}")

    @model_validator(mode="after")
    def _fits_together(self) -> DataConfig:
        expected = _LAYOUT_OF_KIND[self.kind]
        if self.kind != "coco" and self.layout not in (None, expected):
            raise ValueError(f"data.layout = {self.layout!r}: data.kind {self.kind} always has layout {expected}")
        if self.kind == "synthetic":
            for name in _OF_FILES:
                _refuse(self, name, "data", "data.kind synthetic reads no files")
        elif self.root is None:
            raise ValueError(f"data.root: data.kind {self.kind} needs the folder of the data set")
        else:
            _refuse(self, "synthetic_seed", "data", f"data.kind {self.kind} draws no faces")
            if not self.skip_bad:
                _refuse(self, "skip_at_most", "data", "data.skip_bad is off")
            if self.placeholders == "merl_rav" and self.kind != "w300":
                raise ValueError(
                    f"data.placeholders = 'merl_rav': are signs of .pts files, data.kind {self.kind} has none"
                )
            if self.val_list is not None:
                _refuse(self, "val_fraction", "data", "data.val_list is given")
        return self


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
            _refuse(self, "deconv_layers", "model", f"model.head {self.head} has no deconvolutions")
        if self.head == "regression":
            _refuse(self, "width", "model", "model.head regression has no head channels")
        return self


class LossConfig(Section):
    name: Literal["star", "smooth_l1", "wing", "soft_wing"] = Field("star", description="loss of the landmarks")
    star_weight: float = Field(1.0, ge=0, description="weight of STAR's eigenvalue term (the paper's code: star_w)")
    distance: Literal["smooth_l1", "l1", "l2", "wing"] = Field("smooth_l1", description="distance inside STAR")

    @model_validator(mode="after")
    def _fits_together(self) -> LossConfig:
        if self.name != "star":
            for name in ("star_weight", "distance"):
                _refuse(self, name, "loss", f"loss.name {self.name} has no such term")
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
                _refuse(self, name, "optim", f"optim.schedule {self.schedule} has no milestones")
        elif not self.milestones:
            _refuse(self, "gamma", "optim", "optim.milestones is empty")
        elif list(self.milestones) != sorted(set(self.milestones)) or not all(
            0 < m < self.epochs for m in self.milestones
        ):
            raise ValueError(
                f"optim.milestones = {list(self.milestones)}: must rise and lie between 1 and "
                f"optim.epochs - 1 ({self.epochs - 1})"
            )
        if self.warmup_steps == 0:
            _refuse(self, "warmup_from", "optim", "optim.warmup_steps is 0")
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

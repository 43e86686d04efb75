"""The section `data` of the trainer's config: which faces, how they are cropped, augmented and measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from trainer.landmarks import LAYOUTS, Layout, Norm
from trainer.settings import NotSearched, Section, refuse_without_effect
from trainer.user_folders import default_cache

LayoutName = Literal["wflw98", "w300_68", "cofw29", "aflw19"]
Placeholders = Literal["refuse", "missing", "merl_rav", "keep"]
_JUDGES = NotSearched("it decides on which faces trials are judged, and all are judged on the same")
_MEASURES = NotSearched("it decides what the numbers mean that trials are judged by")
_TRAINED_ON = NotSearched("trials are judged on the validation faces, and never trained on them")
_NO_NUMBER = NotSearched("it changes no number")
_LAYOUT_OF_KIND: dict[str, LayoutName] = {
    "synthetic": "wflw98",
    "wflw": "wflw98",
    "w300": "w300_68",
    "coco": "wflw98",
}
_OF_FILES = ["root", "train_list", "val_list", "test_list", "val_fraction", "split_seed", "group_by"]
_OF_FILES += ["skip_bad", "skip_at_most", "allow_overlap", "placeholders"]


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
        return Path(self.cache_dir).expanduser() if self.cache_dir else default_cache()

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
                refuse_without_effect(self, name, "data", "data.kind synthetic reads no files")
        elif self.root is None:
            raise ValueError(f"data.root: data.kind {self.kind} needs the folder of the data set")
        else:
            refuse_without_effect(self, "synthetic_seed", "data", f"data.kind {self.kind} draws no faces")
            if not self.skip_bad:
                refuse_without_effect(self, "skip_at_most", "data", "data.skip_bad is off")
            if self.placeholders == "merl_rav" and self.kind != "w300":
                raise ValueError(
                    f"data.placeholders = 'merl_rav': are signs of .pts files, data.kind {self.kind} has none"
                )
            if self.val_list is not None:
                refuse_without_effect(self, "val_fraction", "data", "data.val_list is given")
        return self

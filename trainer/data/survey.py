"""What the faces of a config are, told before anything is measured on them: counts, groups, crops, shared pictures.

Legend: N faces, K landmarks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from trainer.coords import outside
from trainer.data.crop_cache import load_split
from trainer.data.face_table import Split, read_split
from trainer.data.faults import Fault, reasons
from trainer.data.groups import description
from trainer.data.twins import Twins, shared_pictures
from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.config import TrainConfig
    from trainer.data.crops import CropSplit
    from trainer.data_config import DataConfig
    from trainer.landmarks import Norm

NO_WARNING: Final = "none"
IN_TEST: Final = "in the test split and in what was trained on"  # where `trained_on` finds pictures of the test
_MOST_OUTSIDE: Final = 0.005  # share of a split's landmarks that may lie outside of their crops without a word
_LEAST_EXTENT: Final = 0.5  # of the crop's side that faces span in the median without a word


@dataclass(frozen=True)
class SplitFacts:
    """One split.

    Attributes:
        faces: how many.
        groups: what they belong to, in words.
        skipped: the faces that were left out.
        missing: share of landmarks that are not there.
        outside: share of landmarks that lie outside of their crop; faces_outside: of how many faces, such as `example`.
        extent: median span of a face's landmarks, as a share of the crop's side.
        sides: smallest, median and largest span in pixels of the pictures.
        fingerprint: see `CropSplit.fingerprint`.
    """

    faces: int
    groups: str
    skipped: tuple[Fault, ...]
    missing: float
    outside: float
    faces_outside: int
    example: str
    extent: float
    sides: tuple[float, float, float]
    fingerprint: str

    @classmethod
    def of(cls, crops: CropSplit) -> SplitFacts:
        """Looks at every face of a split."""
        points = crops.landmarks
        beyond = outside(points, crops.size, crops.size) & crops.visible  # (N, K)
        spans = (np.nanmax(points, axis=1) - np.nanmin(points, axis=1)).max(axis=1)  # (N,) pixels of the crop
        sides = spans * np.linalg.norm(crops.to_picture[:, :, 0], axis=1)  # (N,) pixels of the picture
        rows = beyond.sum(axis=1)
        return cls(
            len(crops),
            description(crops.groups),
            crops.skipped,
            float(1 - crops.visible.mean()),
            float(beyond.sum() / crops.visible.sum()),
            int((rows > 0).sum()),
            crops.origins[int(rows.argmax())],
            float(np.median(spans) / crops.size),
            (float(sides.min()), float(np.median(sides)), float(sides.max())),
            crops.fingerprint(),
        )

    def text(self) -> str:
        """The split in one line."""
        low, middle, high = self.sides
        return (
            f"{self.faces} faces in {self.groups}; landmarks: {self.missing:.1%} missing, {self.outside:.1%} outside "
            f"of the crop; faces {low:.0f} to {high:.0f} px, median {middle:.0f}, {self.extent:.0%} of the crop"
        )


@dataclass(frozen=True)
class Survey:
    """The splits of a config by name, what divides the NME, and pictures that are in two splits, by the two names."""

    splits: Mapping[str, SplitFacts]
    norm: Norm
    twins: Mapping[tuple[str, str], Twins] = field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """data.hash.NAME of every split."""
        return {f"data.hash.{name}": facts.fingerprint for name, facts in self.splits.items()}

    @property
    def skipped(self) -> dict[str, tuple[Fault, ...]]:
        """The faces that were left out, of splits that have any."""
        return {name: facts.skipped for name, facts in self.splits.items() if facts.skipped}

    def lines(self) -> list[str]:
        """All of it, for a dry run."""
        lines = [f"{name:<6} {facts.text()}" for name, facts in self.splits.items()]
        lines.append(f"norm   {self.norm} divides the NME")
        return lines + (self.warnings() or ["no picture is in two splits, no face was left out"])

    def warnings(self) -> list[str]:
        """What may make numbers another thing than they look like; empty where nothing does."""
        lines = [twins.text(f"in both {a} and {b}") for (a, b), twins in self.twins.items() if twins]
        for name, facts in self.splits.items():
            if facts.skipped:
                left, of = len(facts.skipped), facts.faces + len(facts.skipped)
                lines.append(f"{left} of {of} faces of {name} are faulty and left out: {reasons(facts.skipped)}")
            if facts.outside > _MOST_OUTSIDE:
                lines.append(
                    f"{facts.outside:.1%} of the landmarks of {name} lie outside of the crop, in {facts.faces_outside} "
                    f"faces, most in {facts.example}: boxes are too small (data.box_scale)"
                )
            if facts.extent < _LEAST_EXTENT:
                lines.append(f"faces of {name} span {facts.extent:.0%} of the crop in the median: boxes are too large")
        return lines

    def tags(self) -> dict[str, str]:
        """For MLflow and the event log: hashes, and the facts in words."""
        facts = {f"faces.{name}": facts.text() for name, facts in self.splits.items()}
        return self.hashes | facts | {"faces.warnings": "; ".join(self.warnings()) or NO_WARNING}


def survey(config: DataConfig, splits: Mapping[Split, CropSplit]) -> Survey:
    """Looks at the splits that are at hand, and compares their pictures with each other and with those of the test.

    Of the test list only the pictures are looked at; where it is not there, it is left out.
    """
    pictures: dict[str, tuple[str, ...]] = {name: crops.pictures for name, crops in splits.items()}
    if config.kind != "synthetic" and "test" not in pictures:
        with contextlib.suppress(DataError):
            pictures["test"] = read_split(config, "test").pictures
    names = list(pictures)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if a != b]
    twins = {(a, b): shared_pictures(pictures[a], pictures[b]) for a, b in pairs}
    return Survey({name: SplitFacts.of(crops) for name, crops in splits.items()}, config.norm, twins)


def trained_on(data: DataConfig, split: Split) -> Twins | None:
    """Which pictures of a split were trained on, by the lists of a trained network's config; None where these cannot
    be read here.

    Raises:
        DataError: pictures of the test split were trained on, and must not (data.allow_overlap).
    """
    if data.kind == "synthetic":
        return Twins()
    try:
        twins = shared_pictures(read_split(data, data.train_on).pictures, read_split(data, split).pictures)
    except DataError:
        return None
    if twins and split == "test" and not data.allow_overlap:
        raise DataError(
            f"{twins.text(IN_TEST)}; take them out of one of the lists, or say "
            "that it is meant (data.allow_overlap, which is told beside the number)"
        )
    return twins


def require_faces(config: TrainConfig, crops: Mapping[Split, CropSplit], expected: Mapping[Split, str]) -> None:
    """Raises DataError where the faces of a split are not those of the expected hash, by the split's name."""
    for split, wanted in expected.items():
        of = crops[split] if split in crops else load_split(config.data, split)
        if (found := of.fingerprint()) != wanted:
            raise DataError(f"the {split} faces here are not those that the sweep began with ({found}, not {wanted})")

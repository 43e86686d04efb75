"""The one table of faces: which picture, which landmarks, which box; and how it is split and checked.

Validation faces come from a list of their own or are cut from the training list by group (`trainer.data.groups`), so
that no group is on both sides. The test list is read for the test split, and to
compare its pictures with those of the others (`trainer.data.survey`).

Legend: N faces, K landmarks. Pixels follow `trainer.coords`: the centre of the top left pixel is (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from trainer.data.face_check import check_face
from trainer.data.faults import Fault, require_few
from trainer.data.groups import Group, description, find_groups
from trainer.data.parsing import is_dir, is_file
from trainer.data.readers import READERS, FaceRecord
from trainer.errors import DataError
from trainer.synthetic import draw_face
from trainer.synthetic.faces import SyntheticFace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data_config import DataConfig
    from trainer.landmarks import Layout

__all__ = ["FaceTable", "Split", "read_split", "render_synthetic", "require_split", "synthetic_indices"]

Split = Literal["train", "val", "test", "train+val"]
_Part = Literal["train", "val", "test"]

_WFLW_LISTS: Final = "WFLW_annotations/list_98pt_rect_attr_train_test"
_DEFAULT_LISTS: Final[dict[str, dict[_Part, str]]] = {
    "wflw": {
        "train": f"{_WFLW_LISTS}/list_98pt_rect_attr_train.txt",
        "test": f"{_WFLW_LISTS}/list_98pt_rect_attr_test.txt",
    },
    "w300": {"train": "train.txt", "test": "test.txt"},
    "coco": {"train": "train.json", "test": "test.json"},
}
_PICTURES: Final[dict[str, tuple[str, ...]]] = {
    "wflw": ("WFLW_images/0--Parade/NAME.jpg ... (pictures, as named in the lists)",),
    "w300": ("FOLDER/NAME.jpg ... (pictures, as named in the lists)", "FOLDER/NAME.pts ... (landmarks of each)"),
    "coco": ("images/NAME.jpg ... (pictures, as file_name says)",),
}
_SYNTHETIC_FACES: Final[dict[_Part, int]] = {"train": 1600, "val": 200, "test": 300}
_SYNTHETIC_OFFSETS: Final[dict[_Part, int]] = {"train": 0, "val": 10_000_000, "test": 20_000_000}
_MOST_OFF: Final = 2.5  # times more or fewer validation faces than asked for, where groups are large


@dataclass(frozen=True)
class FaceTable:
    """A table of N faces.

    Attributes:
        layout: meaning of the landmarks.
        pictures: absolute path of each face's picture, or 'synthetic:SEED:INDEX'.
        landmarks: (N, K, 2) picture pixels, NaN where missing.
        boxes: (N, 4) x_min, y_min, x_max, y_max.
        attributes: (N, 6) in the order of `trainer.landmarks.ATTRIBUTES`; None where the data set has none.
        groups: what each face belongs to, which a split must not cut.
        origins: where each face is listed, 'file:line', for messages.
        skipped: the faces left out under data.skip_bad.
        sizes: width and height of each picture as its list says, where it does.
    """

    layout: Layout
    pictures: tuple[str, ...]
    landmarks: NDArray[np.float64]
    boxes: NDArray[np.float64]
    attributes: NDArray[np.bool_] | None
    groups: tuple[Group, ...]
    origins: tuple[str, ...]
    skipped: tuple[Fault, ...] = ()
    sizes: tuple[tuple[int, int] | None, ...] = ()

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def visible(self) -> NDArray[np.bool_]:
        """(N, K): which landmarks are there."""
        return np.asarray(np.isfinite(self.landmarks).all(axis=2))

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> FaceTable:
        """Returns the faces at `indices`, in that order; skipped faces stay."""
        rows = [int(index) for index in indices]
        return FaceTable(
            self.layout,
            tuple(self.pictures[row] for row in rows),
            self.landmarks[rows],
            self.boxes[rows],
            None if self.attributes is None else self.attributes[rows],
            tuple(self.groups[row] for row in rows),
            tuple(self.origins[row] for row in rows),
            self.skipped,
            tuple(self.sizes[row] for row in rows) if self.sizes else (),
        )


def read_split(config: DataConfig, split: Split) -> FaceTable:
    """Reads the faces of one split, in the order of their list.

    A limit such as data.train_faces keeps a random subset (data.split_seed). Where validation is cut from the training
    list, skipped faces belong to the training split.

    Raises:
        DataError: a missing file, a faulty face (or, under data.skip_bad, too many of them), no face left, or fewer
            than a limit asks for.
    """
    if config.kind == "synthetic":
        return _read_synthetic(config, split)
    if split == "train+val":
        return _joined(read_split(config, "train"), read_split(config, "val"))
    cut = config.val_list is None and split != "test"
    faces = _read_list(config, _list_path(config, "train" if cut else split))
    if cut:
        faces = faces.take(_cut(faces.groups, config, split))
        faces = faces if split == "train" else replace(faces, skipped=())
    return _limit(faces, config, split)


def require_split(config: DataConfig, split: Literal["train", "val", "test"]) -> None:
    """Raises DataError where the list of a split is not there; reads nothing of it."""
    if config.kind != "synthetic":
        _list_path(config, split)


def synthetic_indices(config: DataConfig, split: Split) -> Sequence[int]:
    """Indices of the procedural faces of a split; no index is in train, val and test twice."""
    if split == "train+val":
        return [*synthetic_indices(config, "train"), *synthetic_indices(config, "val")]
    count = _wanted(config, split) or _SYNTHETIC_FACES[split]
    start = _SYNTHETIC_OFFSETS[split]
    return range(start, start + count)


def render_synthetic(config: DataConfig, index: int) -> SyntheticFace:
    """Draws a procedural face so large that its crop of data.image_size is about as fine as the drawing."""
    return draw_face(config.synthetic_seed, index, size=config.image_size * 5 // 4)


def _wanted(config: DataConfig, split: _Part) -> int | None:
    return {"train": config.train_faces, "val": config.val_faces, "test": config.test_faces}[split]


def _joined(first: FaceTable, second: FaceTable) -> FaceTable:
    """Both tables, one after the other; they are of one data set."""
    both = first.attributes is not None and second.attributes is not None
    return FaceTable(
        first.layout,
        first.pictures + second.pictures,
        np.concatenate([first.landmarks, second.landmarks]),
        np.concatenate([first.boxes, second.boxes]),
        np.concatenate([first.attributes, second.attributes]) if both else None,
        first.groups + second.groups,
        first.origins + second.origins,
        first.skipped + second.skipped,
        first.sizes + second.sizes,
    )


def _read_synthetic(config: DataConfig, split: Split) -> FaceTable:
    indices = synthetic_indices(config, split)
    drawn = [render_synthetic(config, index) for index in indices]
    names = tuple(f"synthetic:{config.synthetic_seed}:{index}" for index in indices)
    return FaceTable(
        config.landmarks,
        names,
        np.stack([face.landmarks for face in drawn]),
        np.stack([face.box for face in drawn]),
        np.stack([face.attributes for face in drawn]),
        groups=tuple(Group("picture", name) for name in names),
        origins=names,
    )


def _list_path(config: DataConfig, split: _Part) -> Path:
    """Path of a split's list; a DataError showing the expected tree where it or its root is missing."""
    root = _root(config)
    lists: dict[_Part, str | None] = {"train": config.train_list, "val": config.val_list, "test": config.test_list}
    names = {part: name or _DEFAULT_LISTS[config.kind].get(part) for part, name in lists.items()}
    path = root / str(names[split])
    pictures = root / "WFLW_images"
    if not is_dir(root):
        missing = f"there is no folder {root}"
    elif not is_file(path):
        missing = f"there is no file {path}"
    elif config.kind == "wflw" and not is_dir(pictures):
        missing = f"there is no folder {pictures}"
    else:
        return path
    tree = "".join(f"\n    {name}" for name in (*filter(None, names.values()), *_PICTURES[config.kind]))
    raise DataError(f"data.root = {config.root!r}: {missing}; data.kind {config.kind} expects\n  {root}/{tree}")


def _root(config: DataConfig) -> Path:
    try:
        return Path(config.root or "").expanduser()
    except RuntimeError:
        raise DataError(f"data.root = {config.root!r}: there is no such user") from None


def _read_list(config: DataConfig, path: Path) -> FaceTable:
    layout = config.landmarks
    faces: list[FaceRecord] = []
    origins: list[str] = []
    skipped: list[Fault] = []
    for origin, parse in READERS[config.kind](_root(config), path, layout.count, config.placeholders):
        try:
            face = parse()
            check_face(face, config.norm)
        except ValueError as error:
            if not config.skip_bad:
                raise DataError(f"{origin}: {error}") from None
            skipped.append(Fault(origin, str(error)))
        else:
            faces.append(face)
            origins.append(origin)
    if not faces:
        left = f" but {len(skipped)} faulty ones, such as {skipped[0]}" if skipped else ""
        raise DataError(f"{path}: holds no face{left}")
    require_few(skipped, len(faces) + len(skipped), config.skip_at_most, str(path))
    attributes = [face.attributes for face in faces if face.attributes is not None]
    pictures = tuple(face.picture for face in faces)
    return FaceTable(
        layout,
        pictures,
        np.stack([face.landmarks for face in faces]),
        np.stack([face.box for face in faces]),
        np.stack(attributes) if attributes else None,
        find_groups(faces, config.group_by, _root(config).absolute()),
        tuple(origins),
        tuple(skipped),
        tuple(_size(face) for face in faces),
    )


def _size(face: FaceRecord) -> tuple[int, int] | None:
    width, height = face.fields.get("width"), face.fields.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) else None


def _cut(groups: Sequence[Group], config: DataConfig, split: _Part) -> list[int]:
    """Rows of the training or validation side of the cut."""
    names = sorted(set(groups))
    asked = f"data.val_fraction = {config.val_fraction}"
    count = max(1, round(config.val_fraction * len(names)))
    if count >= len(names):
        raise DataError(
            f"{asked}: leaves no training face, the training list has {description(groups)}, {count} of them would be "
            "cut off (give a data.val_list)"
        )
    np.random.default_rng(config.split_seed).shuffle(names)
    held = set(names[:count])
    found = sum(group in held for group in groups)
    wanted = max(1, round(config.val_fraction * len(groups)))
    if not wanted / _MOST_OFF <= found <= wanted * _MOST_OFF:
        raise DataError(
            f"{asked}: holds {found} of {len(groups)} faces back, far from what is asked, as these are "
            f"{description(groups)}, which stay whole (data.group_by = {config.group_by!r} says how they are found: "
            "picture, folder, field:NAME or a pattern; or another data.split_seed, or a data.val_list)"
        )
    return [row for row, group in enumerate(groups) if (group in held) == (split == "val")]


def _limit(faces: FaceTable, config: DataConfig, split: _Part) -> FaceTable:
    wanted = _wanted(config, split)
    if wanted is None:
        return faces
    if wanted > len(faces):
        raise DataError(f"data.{split}_faces = {wanted}: the {split} split has {len(faces)} faces")
    rows = np.random.default_rng(config.split_seed).choice(len(faces), wanted, replace=False)
    return faces.take(np.sort(rows))

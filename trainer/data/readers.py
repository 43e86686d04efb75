"""Readers of face lists: WFLW's text lists, 300-W's .pts files, COCO-style json as MMPose's converters write it.

A reader goes through a list and yields, for each face, its place in the list and a function that parses it. The
function raises ValueError with the reason alone, so that the caller adds the place and may go on with the next face.

Points that stand for no place, such as (-1, -1), are refused unless data.placeholders says what they mean.

Legend: K landmarks. Pixels follow `trainer.coords`: the centre of the top left pixel is (0, 0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from trainer.data.parsing import (
    NOTHING_VISIBLE,
    find_picture,
    is_file,
    landmark_box,
    lines_of,
    parse_array,
    parse_numbers,
    read_text,
    require_finite,
    shortened,
    without_placeholders,
)
from trainer.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainer.data_config import Placeholders

_WFLW_NUMBERS: Final = 98 * 2 + 4  # then six attributes and the picture's name
_WFLW_FIELDS: Final = _WFLW_NUMBERS + 6 + 1
_MMPOSE_UNIT: Final = 200.0  # pixels that a `scale` of 1 means
_COMMENT: Final = re.compile(r"(#|//).*")


@dataclass(frozen=True)
class FaceRecord:
    """One face as its list has it.

    Attributes:
        picture: absolute path.
        landmarks: (K, 2) picture pixels, NaN where missing.
        box: (4,) x_min, y_min, x_max, y_max.
        attributes: (6,) WFLW's six, or None.
        fields: what else its entry and that of its picture say, by name.
    """

    picture: str
    landmarks: NDArray[np.float64]
    box: NDArray[np.float64]
    attributes: NDArray[np.bool_] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


Entries = Iterator[tuple[str, Callable[[], FaceRecord]]]
Reader = Callable[[Path, Path, int, "Placeholders"], Entries]


def read_wflw(root: Path, listing: Path, count: int, placeholders: Placeholders = "refuse") -> Entries:
    """Reads WFLW's list_98pt_rect_attr: 196 coordinates, box, six attributes 0 or 1, picture under WFLW_images."""
    for number, line in lines_of(listing):
        yield f"{listing}:{number}", partial(_wflw_face, root, line, count, placeholders)


def read_w300(root: Path, listing: Path, count: int, placeholders: Placeholders = "refuse") -> Entries:
    """Reads a list of pictures, relative to the root or else to the list's folder, each with a .pts file beside it.

    The coordinates of .pts files start at 1; 1 is subtracted. The box is that of the landmarks that are there.
    """
    for number, line in lines_of(listing):
        yield f"{listing}:{number}", partial(_w300_face, (root, listing.parent), line, count, placeholders)


def read_coco(root: Path, listing: Path, count: int, placeholders: Placeholders = "refuse") -> Entries:
    """Reads a COCO-style json; pictures lie under the root, its folder `images`, or the json's own folder.

    A keypoint with v == 0 is missing; a negative v, which COCO does not know, is a placeholder. The box is MMPose's
    `center` and `scale` (in units of 200 pixels; one number for a square, or width and height) where given, else `bbox`
    (x, y, width, height), else that of the landmarks.
    """
    try:
        tree = json.loads(read_text(listing), object_pairs_hook=_once)
        pictures = _pictures(tree["images"])
        annotations = list(tree["annotations"])
    except json.JSONDecodeError as error:
        raise DataError(f"{listing}:{error.lineno}: is not valid json ({error.msg})") from None
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits, thousands of brackets
        raise DataError(f"{listing}: {error}") from None
    except (KeyError, TypeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{listing}: must hold images [{{id, file_name}}] and annotations [{{image_id, keypoints}}], but: {what}"
        ) from None
    folders = (root, root / "images", listing.parent)
    for position, annotation in enumerate(annotations):
        name = annotation.get("id") if isinstance(annotation, dict) else None
        shown = f"number {position}" if name is None else shortened(name)
        yield f"{listing}: annotation {shown}", partial(_coco_face, folders, pictures, annotation, count, placeholders)


READERS: Final[dict[str, Reader]] = {"wflw": read_wflw, "w300": read_w300, "coco": read_coco}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A json object; of a key given twice, json itself would drop the first value in silence."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        where = f" (in the entry of id {shortened(tree['id'])})" if "id" in tree else ""
        raise ValueError(f"{shortened(twice)} is given twice{where}")
    return tree


def _pictures(images: Any) -> dict[str, Mapping[str, Any]]:
    """The entry of each image id, with its file name as text."""
    entries: dict[str, Mapping[str, Any]] = {}
    for image in images:
        key, name = str(image["id"]), str(image["file_name"])
        entry = entries.setdefault(key, {**image, "file_name": name})
        if entry["file_name"] != name:
            names = f"{shortened(entry['file_name'])} and {shortened(name)}"
            raise ValueError(f"image id {shortened(key)} stands for two pictures, {names}")
    return entries


def _wflw_face(root: Path, line: str, count: int, placeholders: Placeholders) -> FaceRecord:
    fields = line.split()
    if len(fields) != _WFLW_FIELDS:
        raise ValueError(f"must have {_WFLW_FIELDS} fields (196 coordinates, box, attributes, name), has {len(fields)}")
    numbers = np.array(parse_numbers(fields[:_WFLW_NUMBERS]))
    attributes = fields[_WFLW_NUMBERS:-1]
    for position, text in enumerate(attributes, start=_WFLW_NUMBERS + 1):
        if text not in ("0", "1"):
            raise ValueError(f"attribute in field {position} must be 0 or 1, but is {shortened(repr(text))}")
    picture = find_picture([root / "WFLW_images" / fields[-1]])
    landmarks = without_placeholders(require_finite(numbers[:-4].reshape(count, 2)), placeholders)
    return FaceRecord(picture, landmarks, numbers[-4:], np.array([text == "1" for text in attributes]))


def _w300_face(folders: Sequence[Path], name: str, count: int, placeholders: Placeholders) -> FaceRecord:
    picture = find_picture([folder / name for folder in folders])
    path = Path(picture).with_suffix(".pts")
    if not is_file(path):
        raise ValueError(f"there is no {path} beside the picture")
    landmarks = without_placeholders(require_finite(_pts_points(path, count)), placeholders) - 1.0
    return FaceRecord(picture, landmarks, landmark_box(landmarks))


def _pts_points(path: Path, count: int) -> NDArray[np.float64]:
    """Reads the points (K, 2) of a .pts file as they stand there: header lines 'key: value', then { x y ... }."""
    points: list[list[float]] = []
    brackets = ""
    for number, raw in lines_of(path):
        line = _COMMENT.sub("", raw).strip() if "#" in raw or "/" in raw else raw
        key, colon, value = line.partition(":")
        if not line:
            continue
        if line in ("{", "}"):
            brackets += line
        elif colon:
            if key.strip() == "n_points" and value.strip() != str(count):
                raise ValueError(f"{path}:{number}: n_points must be {count}, but is {shortened(value.strip())}")
        elif len(fields := line.split()) != 2:
            raise ValueError(f"{path}:{number}: must have 2 fields (x y), has {len(fields)}")
        else:
            try:
                points.append(parse_numbers(fields))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    if brackets not in ("{}", ""):
        raise ValueError(f"{path}: the brackets around the points must be {{ }}, but are {brackets}")
    if len(points) != count:
        raise ValueError(f"{path}: must have {count} points, has {len(points)}")
    return np.array(points)


def _coco_face(
    folders: Sequence[Path],
    pictures: Mapping[str, Mapping[str, Any]],
    annotation: Any,
    count: int,
    placeholders: Placeholders,
) -> FaceRecord:
    if not isinstance(annotation, dict):
        raise ValueError(f"must be a mapping, but is {type(annotation).__name__}")
    for key in ("image_id", "keypoints"):
        if key not in annotation:
            raise ValueError(f"has no {key}")
    if str(annotation["image_id"]) not in pictures:
        raise ValueError(f"image_id {shortened(annotation['image_id'])} is not among the images")
    image = pictures[str(annotation["image_id"])]
    keypoints = parse_array(annotation, "keypoints", 3 * count).reshape(count, 3)
    seen = keypoints[:, 2] != 0
    if not seen.any():
        raise ValueError(NOTHING_VISIBLE)
    require_finite(np.where(seen[:, None], keypoints, 0.0))
    negative = (keypoints[:, 2:] < 0) & (placeholders != "keep")
    points = np.where(negative, -1.0, keypoints[:, :2])
    landmarks = without_placeholders(np.where(seen[:, None], points, np.nan), placeholders)
    picture = find_picture([folder / image["file_name"] for folder in folders])
    return FaceRecord(picture, landmarks, _coco_box(annotation, landmarks), fields={**image, **annotation})


def _coco_box(annotation: dict[str, Any], points: NDArray[np.float64]) -> NDArray[np.float64]:
    if "center" in annotation and "scale" in annotation:
        centre, scale = parse_array(annotation, "center", 2), parse_array(annotation, "scale", 1, 2)
        half = np.broadcast_to(scale, 2) * (_MMPOSE_UNIT / 2)
        return np.concatenate([centre - half, centre + half])
    if "bbox" in annotation:
        box = parse_array(annotation, "bbox", 4)
        with np.errstate(over="ignore"):  # an infinite box is refused like any other
            return np.concatenate([box[:2], box[:2] + box[2:]])
    return landmark_box(points)

"""Which faces belong together: the frames of a video, the pictures of a person, the crops of a photograph.

A cut between training and validation faces must not go through such a group, else validation measures what was learnt
by heart. `data.group_by` says how groups are found.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

from trainer.errors import DataError
from trainer.settings import shorten

if TYPE_CHECKING:
    from trainer.data.readers import FaceRecord

_MIRRORED: Final = re.compile(r"[_-](mirror(ed)?|flip(ped)?)$")
_PERSON: Final = re.compile(r"[A-Za-z]+\d+_\d+")  # p093_09: person, then number
_PHOTOGRAPH: Final = re.compile(r"([A-Za-z]*(?:\d{4,}|image_\d+))_\d{1,2}")  # 134212_1 of AFW, image_003_1 of IBUG
_FRAME: Final = re.compile(r"(?:frame[_-]?)?\d+")


class Group(NamedTuple):
    """What a face belongs to: its kind (picture, photograph, video, person, ...) and a name among those of the kind."""

    kind: str
    name: str


def find_groups(faces: Sequence[FaceRecord], how: str, root: PurePath) -> tuple[Group, ...]:
    """The group of each face.

    Args:
        faces: of one list.
        how: picture, folder, field:NAME, auto, or a regular expression whose first group names the group; it is looked
            for in the path of the picture.
        root: absolute, from which that path begins.

    Raises:
        DataError: a face that has no such field, or whose path does not fit the expression.
    """
    paths = [PurePath(face.picture) for face in faces]
    if how.startswith("field:"):
        return tuple(Group(how, _field(face, how.removeprefix("field:"))) for face in faces)
    if how == "folder":
        return tuple(Group("folder", str(path.parent)) for path in paths)
    if how == "picture":
        return tuple(_picture(path) for path in paths)
    if how == "auto":
        return _by_field(faces) or _by_person(paths) or _by_place(paths)
    return tuple(Group("pattern", _matched(path, re.compile(how), root)) for path in paths)


def description(groups: Sequence[Group]) -> str:
    """What groups there are, such as '337 photographs, 2811 pictures'."""
    counts = Counter(group.kind for group in set(groups))
    return ", ".join(f"{count} {_named(kind, count)}" for kind, count in sorted(counts.items()))


def _named(kind: str, count: int) -> str:
    if kind in ("picture", "photograph", "video", "person", "folder"):
        return kind + "s" * (count > 1)
    return f"group{'s' * (count > 1)} by {kind}"


def _field(face: FaceRecord, name: str) -> str:
    if name not in face.fields:
        raise DataError(f"data.group_by = 'field:{name}': the entry of {face.picture} has no {shorten(name)}")
    return str(face.fields[name])


def _matched(path: PurePath, pattern: re.Pattern[str], root: PurePath) -> str:
    name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    if (match := pattern.search(name)) is None:
        raise DataError(f"data.group_by = {pattern.pattern!r}: does not fit {name}")
    return str(match[1])


def _by_field(faces: Sequence[FaceRecord]) -> tuple[Group, ...] | None:
    """By what COCO's video data sets write into every entry."""
    for name, kind in (("video_id", "video"), ("person_id", "person")):
        if all(name in face.fields for face in faces):
            return tuple(Group(kind, str(face.fields[name])) for face in faces)
    return None


def _by_person(paths: Sequence[PurePath]) -> tuple[Group, ...] | None:
    """By person where every name is like p093_09, and none like that of a photograph."""
    stems = [_MIRRORED.sub("", path.stem) for path in paths]
    if all(_PERSON.fullmatch(stem) and not _PHOTOGRAPH.fullmatch(stem) for stem in stems):
        return tuple(Group("person", stem.split("_")[0]) for stem in stems)
    return None


def _by_place(paths: Sequence[PurePath]) -> tuple[Group, ...]:
    """By video in folders of frames, by photograph where names tell one, else by picture."""
    stems = defaultdict(set)
    for path in paths:
        stems[path.parent].add(_MIRRORED.sub("", path.stem))
    videos = {folder for folder, names in stems.items() if len(names) > 1 and all(map(_FRAME.fullmatch, names))}
    if len(stems) == 1:
        videos = set()  # of a whole data set in one folder, numbers tell nothing
    return tuple(Group("video", str(p.parent)) if p.parent in videos else _photograph(p) for p in paths)


def _photograph(path: PurePath) -> Group:
    match = _PHOTOGRAPH.fullmatch(_MIRRORED.sub("", path.stem))
    return Group("photograph", match[1]) if match else _picture(path)


def _picture(path: PurePath) -> Group:
    """A picture and its mirrored copy."""
    stem = _MIRRORED.sub("", path.stem)
    return Group("picture", str(path if stem == path.stem else path.with_stem(stem)))

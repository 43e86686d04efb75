"""Broken face lists by the thousand, in all three formats: every face is read as it stands or refused by its place."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainer.data.crop_cache import load_split
from trainer.data.face_table import FaceTable, read_split
from trainer.data_config import DataConfig
from trainer.errors import DataError

WFLW_LINES, WFLW_FILES, W300_POINTS, W300_LISTS, COCO_ENTRIES, COCO_FILES = 3500, 1000, 2000, 1000, 2000, 1000
RNG = np.random.default_rng(5)
POINTS98, POINTS68 = [(RNG.random((count, 2)) * 40 + 30).round(3) for count in (98, 68)]
NUMBERS = [
    "",
    "x",
    "nan",
    "-nan",
    "inf",
    "-inf",
    "1e999",
    "1e300",
    "-1e300",
    "1e9",
    "1_0",
    "0x10",
    "1,5",
    "1.5.2",
    "--1",
]
NUMBERS += [
    "0",
    "-0",
    "-5",
    "50",
    "1e1",
    "5\0",
    "\0",
    "\ufeff5",
    "é",
    "😀",
    "9" * 400,
    "9" * 5000,
    "null",
    "None",
    "[5]",
    "'5'",
]
NAMES = [
    "b.jpg",
    "none.jpg",
    "../b.jpg",
    "../../../../etc/passwd",
    "/dev/null",
    "/",
    ".",
    "..",
    "folder.jpg",
    "x" * 300,
]
NAMES += [
    "x" * 5000,
    "b.jpg\0",
    "\0",
    "é.jpg",
    "b.jpg b.jpg",
    '"b.jpg"',
    "~/b.jpg",
    "*.jpg",
    "b.JPG",
    "sub/b.jpg",
    "a\u2028b.jpg",
]
JUNK: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2,
    1.5,
    float("nan"),
    float("inf"),
    1e308,
    10**30,
    10**400,
    "",
    "x",
    "2",
    "\0",
    "\ud800",
]
JUNK += [
    [],
    {},
    [1],
    [[1, 2]],
    {"a": 1},
    [None, None],
    ["1", "2"],
    [1, 2, 3, 4],
    [0, 0, 0, 0],
    [5, 5, -1, -1],
    [1e308] * 4,
]
JUNK += [[float("nan")] * 4, [-9000, -9000, 10, 10], [30, 30, 1e-300, 1e-300], [10**400] * 2, [True, False], "9" * 5000]


class Checked:
    """Reads one list after another and counts them: all of its faces, or one message that names the place.

    `place` is what stands before the reason where one face is faulty; None: anywhere in the file.
    """

    def __init__(self, config: DataConfig, listing: Path) -> None:
        self.config, self.listing = config, listing
        self.loaded = self.refused = 0

    def __call__(self, written: int, place: str | None = None) -> FaceTable | None:
        left = self._left_out(written, place)
        try:
            faces = read_split(self.config, "train")
        except DataError as error:
            self.refused += 1
            self._assert_clear(str(error), place)
            assert left is None or left > 0
            return None
        self.loaded += 1
        assert left == 0
        assert len(faces) == written
        assert np.isfinite(faces.boxes).all()
        assert np.isfinite(faces.landmarks[faces.visible]).all()
        return faces

    def _left_out(self, written: int, place: str | None) -> int | None:
        """Faces left out where bad ones may be; none of them without a word. None: the file as a whole is refused."""
        try:
            faces = read_split(self.config.model_copy(update={"skip_bad": True, "skip_at_most": 1.0}), "train")
        except DataError as error:
            self._assert_clear(str(error), None)
            return None
        assert len(faces) + len(faces.skipped) == written
        for message in faces.skipped:
            self._assert_clear(str(message), place)
        return len(faces.skipped)

    def _assert_clear(self, message: str, place: str | None) -> None:
        assert message.startswith(f"{self.listing}{place or ''}: " if place else f"{self.listing}:"), message
        assert len(message) < 1500
        assert message.isprintable(), ascii(message)

    @property
    def total(self) -> int:
        return self.loaded + self.refused


def broken(rng: random.Random, data: bytes) -> bytes:
    """The file cut short, with bytes put in or changed, with lines doubled or with other ends of lines."""
    for _ in range(rng.randint(1, 3)):
        at, lines = rng.randrange(len(data) + 1), data.splitlines(keepends=True)
        match rng.randrange(7):
            case 0:
                data = data[:at]
            case 1:
                data = (
                    data[:at]
                    + rng.choice([b"\0", b"\xff", b"\r", b"\n", b" ", b"\xe2\x80\xa8", b"\x0c", b"{", b":"])
                    + data[at:]
                )
            case 2:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 3:
                data = data.replace(b"\n", rng.choice([b"\r\n", b"\n\n", b"\r"]))
            case 4:
                data = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\n\n"]) + data
            case 5:
                data += rng.choice(lines or [b""])
            case _:
                data = data[:at] + data[at + rng.randint(1, 30) :]
    return data


def lines_of(data: bytes) -> int:
    """Lines that are not blank; 0 where the file is no text."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return 0
    return sum(bool(line.strip()) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")


# --- WFLW


def wflw_fields(name: str = "a.jpg") -> list[str]:
    return [*(f"{v:.3f}" for v in POINTS98.reshape(-1)), *["30", "30", "70", "70", "0", "1", "0", "0", "1", "0"], name]


@pytest.fixture
def wflw(tmp_path: Path) -> Checked:
    touch(tmp_path / "WFLW_images/a.jpg", tmp_path / "WFLW_images/b.jpg")
    (tmp_path / "WFLW_images/folder.jpg").mkdir()
    config = DataConfig(kind="wflw", root=str(tmp_path), train_list="list.txt", val_list="list.txt")
    return Checked(config, tmp_path / "list.txt")


def test_wflw_lines_with_broken_fields(wflw: Checked) -> None:
    rng, good = random.Random(1), " ".join(wflw_fields())
    for _ in range(WFLW_LINES):
        fields = wflw_fields("b.jpg")
        at = rng.choice([rng.randrange(196), rng.randrange(196, 206)])
        match rng.randrange(6):
            case 0 | 1:
                fields[at] = rng.choice(NUMBERS)
            case 2:
                fields[-1] = rng.choice(NAMES)
            case 3:
                del fields[at : at + rng.randint(1, 3)]
            case 4:
                fields[at:at] = fields[at : at + rng.randint(1, 2)]
            case _:
                box = [rng.choice([-1e4, 0, 30, 50, 70, 70.00001, 99, 1e5, 1e7]) for _ in range(4)]
                fields[196:200] = map(str, box)
        line = rng.choice([" ", "  ", "\t", "\x0c"]).join(fields)
        wflw.listing.write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8", newline="")
        faces = wflw(3, ":2")
        if faces is not None:
            np.testing.assert_array_equal(faces.landmarks[[0, 2]], [POINTS98, POINTS98])
            numbers = [float(field) for field in line.split()[:200]]
            np.testing.assert_array_equal([*faces.landmarks[1].reshape(-1), *faces.boxes[1]], numbers)
    assert wflw.total == WFLW_LINES
    assert min(wflw.loaded, wflw.refused) > 200


def test_broken_wflw_files(wflw: Checked) -> None:
    rng, good = random.Random(2), "".join(" ".join(wflw_fields(name)) + "\n" for name in ("a.jpg", "b.jpg", "a.jpg"))
    for _ in range(WFLW_FILES):
        data = broken(rng, good.encode())
        wflw.listing.write_bytes(data)
        wflw(lines_of(data))
    assert wflw.total == WFLW_FILES
    assert min(wflw.loaded, wflw.refused) > 100


# --- 300-W


def pts(points: np.ndarray = POINTS68) -> list[str]:
    return ["version: 1", "n_points: 68", "{", *(f"{x:.3f} {y:.3f}" for x, y in points + 1), "}"]


@pytest.fixture
def w300(tmp_path: Path) -> Checked:
    for name in ("a", "b", "c"):
        touch(tmp_path / f"{name}.jpg")
        (tmp_path / f"{name}.pts").write_text("\n".join(pts()))
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\nc.jpg\n")
    config = DataConfig(kind="w300", root=str(tmp_path), train_list="list.txt", val_list="list.txt")
    return Checked(config, tmp_path / "list.txt")


def test_broken_pts_files(w300: Checked) -> None:
    rng, path = random.Random(3), w300.listing.with_name("b.pts")
    for number in range(W300_POINTS):
        rows = pts()
        at = rng.randrange(3, 71)
        match rng.randrange(6):
            case 0 | 1:
                rows[at] = f"{rng.choice([*NUMBERS, '40'])} {rng.choice([*NUMBERS, '40'])}"
            case 2:
                del rows[at : at + rng.randint(0, 3)]
            case 3:
                rows[at:at] = rows[at : at + rng.randint(0, 2)]
            case 4:
                rows[rng.randrange(len(rows))] = rng.choice(
                    ["{", "}", "n_points: 67", "n_points:", "x: 3", "", "# 1", "5 6 # y", "5"]
                )
            case _:
                rows[3:71] = [f"{rng.choice([5, 5.0000001, 1e6, -3])} 5"] * 68
        text = "\n".join(rows).encode()
        path.write_bytes(broken(rng, text) if number % 4 == 0 else text)
        w300(3, ":2")
    assert w300.total == W300_POINTS
    assert min(w300.loaded, w300.refused) > 100


def test_broken_lists_of_pictures(w300: Checked) -> None:
    rng = random.Random(4)
    for number in range(W300_LISTS):
        names = [
            rng.choice(["a.jpg", "b.jpg", "c.jpg", *NAMES] if rng.random() < 0.3 else ["a.jpg", "c.jpg"])
            for _ in range(4)
        ]
        data = "\n".join(names).encode()
        data = broken(rng, data) if number % 3 == 0 else data
        w300.listing.write_bytes(data)
        w300(lines_of(data))
    assert w300.total == W300_LISTS
    assert min(w300.loaded, w300.refused) > 100


# --- COCO


def entry(number: int) -> dict[str, Any]:
    keypoints = np.column_stack([POINTS98, np.ones(98)]).reshape(-1).tolist()
    return {"id": number, "image_id": number % 2, "keypoints": keypoints, "bbox": [25, 26, 50, 51]}


def coco_tree() -> dict[str, Any]:
    images = [{"id": 0, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]
    return {"images": images, "annotations": [entry(number) for number in range(3)]}


@pytest.fixture
def coco(tmp_path: Path) -> Checked:
    touch(tmp_path / "a.jpg", tmp_path / "images/b.jpg")
    (tmp_path / "folder.jpg").mkdir()
    config = DataConfig(kind="coco", root=str(tmp_path), train_list="list.json", val_list="list.json")
    return Checked(config, tmp_path / "list.json")


def test_broken_coco_annotations(coco: Checked) -> None:
    rng = random.Random(5)
    sys.set_int_max_str_digits(0)
    for _ in range(COCO_ENTRIES):
        tree = copy.deepcopy(coco_tree())
        face = tree["annotations"][1]
        seen = np.ones(98, bool)
        match rng.randrange(7):
            case 0:
                face[rng.choice(["image_id", "keypoints", "bbox", "center", "scale"])] = rng.choice(JUNK)
            case 1:
                face |= {"center": rng.choice([[50, 52], *JUNK]), "scale": rng.choice([0.5, [0.5, 0.3], *JUNK])}
            case 2:
                face["keypoints"][rng.randrange(294)] = rng.choice(JUNK)
            case 3:
                face.pop(rng.choice(["image_id", "keypoints", "bbox"]))
            case 4:
                for index in rng.sample(range(98), rng.choice([1, 5, 90, 98])):
                    face["keypoints"][3 * index : 3 * index + 3] = rng.choice([[0, 0, 0], [-1, 1e9, 0]])
                    seen[index] = False
            case 5:
                tree["annotations"][1] = rng.choice([value for value in JUNK if not isinstance(value, dict)])
            case _:
                tree["images"][1]["file_name"] = rng.choice([*NAMES, *JUNK])
        coco.listing.write_text(json.dumps(tree))
        at = ": annotation 1" if isinstance(tree["annotations"][1], dict) else ": annotation number 1"
        faces = coco(3, at)
        if faces is not None and "id" in face:
            np.testing.assert_array_equal(faces.landmarks[[0, 2]], [POINTS98, POINTS98])
            given = np.array(face["keypoints"], float).reshape(98, 3)
            np.testing.assert_array_equal(faces.visible[1], given[:, 2] != 0)
            np.testing.assert_array_equal(faces.landmarks[1], np.where(given[:, 2:] == 0, np.nan, given[:, :2]))
            assert seen[~faces.visible[1]].sum() <= 1
    sys.set_int_max_str_digits(4300)
    assert coco.total == COCO_ENTRIES
    assert min(coco.loaded, coco.refused) > 100


def test_broken_coco_files(coco: Checked) -> None:
    rng, good = random.Random(6), json.dumps(coco_tree(), indent=0).encode()
    for number in range(COCO_FILES):
        if number % 2:
            tree = coco_tree()
            chosen = rng.choice(["images", "annotations"])
            tree[chosen] = rng.choice([*JUNK, [*tree[chosen], rng.choice(JUNK)], tree[chosen] * 2])
            data = json.dumps(tree).encode()
        else:
            data = broken(rng, good)
        coco.listing.write_bytes(data)
        try:
            written = len(json.loads(data.decode("utf-8-sig"))["annotations"])
        except (ValueError, LookupError, TypeError):
            written = 0
        coco(written)
    assert coco.total == COCO_FILES
    assert min(coco.loaded, coco.refused) > 20


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "recursion"),
        ('{"images": [], "annotations": [' + "9" * 5000 + "]}", "4300 digits"),
        (json.dumps(coco_tree())[:-1] + ', "annotations": []}', "annotations is given twice"),
        (
            json.dumps(coco_tree()).replace('"bbox"', '"keypoints"', 1),
            "keypoints is given twice (in the entry of id 0)",
        ),
        (
            json.dumps(coco_tree()).replace('"id": 1,', '"id": 0,', 1),
            "image id 0 stands for two pictures, a.jpg and b.jpg",
        ),
    ],
)
def test_json_that_would_crash_or_lose_a_face_is_refused(coco: Checked, text: str, reason: str) -> None:
    coco.listing.write_text(text)
    with pytest.raises(DataError) as error:
        read_split(coco.config, "train")
    assert str(error.value).startswith(f"{coco.listing}: ")
    assert reason in str(error.value)


# --- places


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 3000, ".", "a\0b"])
def test_a_list_or_root_that_no_file_system_has_is_missing(w300: Checked, name: str) -> None:
    for change in ({"train_list": name}, {"root": name}):
        with pytest.raises(DataError, match=r"there is no (file|folder)"):
            read_split(w300.config.model_copy(update=change), "train")


def test_the_home_of_nobody_is_refused(w300: Checked) -> None:
    with pytest.raises(DataError, match=r"data\.root = '~no-such-user/faces': there is no such user"):
        read_split(w300.config.model_copy(update={"root": "~no-such-user/faces"}), "train")
    with pytest.raises(DataError, match=r"data\.cache_dir = '~no-such-user/crops': there is no such user"):
        load_split(w300.config.model_copy(update={"cache_dir": "~no-such-user/crops"}), "train")


def test_a_name_that_leaves_no_room_for_pts_is_refused(w300: Checked) -> None:
    name = "y" * 253 + ".j"
    touch(w300.listing.with_name(name))
    w300.listing.write_text(f"a.jpg\n{name}\n")
    with pytest.raises(DataError, match=r"list\.txt:2: there is no y+\.pts|list\.txt:2: there is no .*y\.pts"):
        read_split(w300.config, "train")


def test_ten_thousand_lists_are_tried() -> None:
    assert WFLW_LINES + WFLW_FILES + W300_POINTS + W300_LISTS + COCO_ENTRIES + COCO_FILES >= 10_000

"""Landmark layouts as data: how many points, which swap under a flip, by what the NME may be divided, where parts lie.

WFLW: Wu et al., CVPR 2018. 300-W: Sagonas et al., ICCV workshops 2013. COFW: Burgos-Artizzu et al., ICCV 2013.
AFLW (19 points): Zhu et al., CVPR 2016. "right" is the subject's right, which is on the left of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

ATTRIBUTES = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")


@dataclass(frozen=True)
class Norm:
    """What the error of a face is divided by: a distance between two places of it, or the size of its box.

    Attributes:
        name: inter_ocular, inter_pupil or box, the same in settings, tags and reports.
        text: in words.
        right, left: landmarks whose means are the two places; none for the box, whose size is sqrt(width * height).
    """

    name: str
    text: str
    right: tuple[int, ...] = ()
    left: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.text} ({self.name})"


def _inter_ocular(right: int, left: int) -> Norm:
    return Norm("inter_ocular", "the distance of the outer eye corners", (right,), (left,))


def _inter_pupil(right: tuple[int, ...], left: tuple[int, ...]) -> Norm:
    text = "the distance of the pupils" if len(right) == 1 else "the distance of the eye centres"
    return Norm("inter_pupil", text, right, left)


BOX: Final = Norm("box", "the root of the face box's area")


@dataclass(frozen=True)
class Layout:
    """One landmark convention.

    Attributes:
        count: number of landmarks K.
        flip_pairs: pairs of indices that change places when the picture is mirrored; all others stay.
        norms: by what the field divides the error; the first is the default here.
        threshold: NME up to which a face counts as found, and which the area under the CED reaches to, as in the
            layout's published tables.
        parts: name -> (start, stop), half-open index ranges.
    """

    name: str
    count: int
    flip_pairs: tuple[tuple[int, int], ...]
    norms: tuple[Norm, ...]
    threshold: float
    parts: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def flip(self) -> list[int]:
        """Index list (K,): `points[flip]` are the landmarks of the mirrored picture in the layout's order."""
        order = list(range(self.count))
        for a, b in self.flip_pairs:
            order[a], order[b] = b, a
        return order

    def norm(self, name: str | None = None) -> Norm:
        """The norm of this name; without one, the default.

        Raises:
            KeyError: the layout has none of this name.
        """
        return self.norms[0] if name is None else {norm.name: norm for norm in self.norms}[name]


# fmt: off
_WFLW98 = Layout(
    name="wflw98",
    count=98,
    flip_pairs=(
        (0, 32),
        (1, 31),
        (2, 30),
        (3, 29),
        (4, 28),
        (5, 27),
        (6, 26),
        (7, 25),
        (8, 24),
        (9, 23),
        (10, 22),
        (11, 21),
        (12, 20),
        (13, 19),
        (14, 18),
        (15, 17),
        (33, 46),
        (34, 45),
        (35, 44),
        (36, 43),
        (37, 42),
        (38, 50),
        (39, 49),
        (40, 48),
        (41, 47),
        (55, 59),
        (56, 58),
        (60, 72),
        (61, 71),
        (62, 70),
        (63, 69),
        (64, 68),
        (65, 75),
        (66, 74),
        (67, 73),
        (76, 82),
        (77, 81),
        (78, 80),
        (83, 87),
        (84, 86),
        (88, 92),
        (89, 91),
        (93, 95),
        (96, 97),
    ),
    norms=(_inter_ocular(60, 72), _inter_pupil((96,), (97,)), BOX),
    threshold=0.10,
    parts={
        "contour": (0, 33),
        "right_brow": (33, 42),
        "left_brow": (42, 51),
        "nose": (51, 60),
        "right_eye": (60, 68),
        "left_eye": (68, 76),
        "outer_lip": (76, 88),
        "inner_lip": (88, 96),
        "pupils": (96, 98),
    },
)

_W300_68 = Layout(
    name="w300_68",
    count=68,
    flip_pairs=(
        (0, 16),
        (1, 15),
        (2, 14),
        (3, 13),
        (4, 12),
        (5, 11),
        (6, 10),
        (7, 9),
        (17, 26),
        (18, 25),
        (19, 24),
        (20, 23),
        (21, 22),
        (31, 35),
        (32, 34),
        (36, 45),
        (37, 44),
        (38, 43),
        (39, 42),
        (40, 47),
        (41, 46),
        (48, 54),
        (49, 53),
        (50, 52),
        (55, 59),
        (56, 58),
        (60, 64),
        (61, 63),
        (65, 67),
    ),
    norms=(_inter_ocular(36, 45), _inter_pupil(tuple(range(36, 42)), tuple(range(42, 48))), BOX),
    threshold=0.08,
    parts={
        "contour": (0, 17),
        "right_brow": (17, 22),
        "left_brow": (22, 27),
        "nose": (27, 36),
        "right_eye": (36, 42),
        "left_eye": (42, 48),
        "outer_lip": (48, 60),
        "inner_lip": (60, 68),
    },
)

_COFW29 = Layout(
    name="cofw29",
    count=29,
    flip_pairs=(
        (0, 1),
        (2, 3),
        (4, 6),
        (5, 7),
        (8, 9),
        (10, 11),
        (12, 14),
        (13, 15),
        (16, 17),
        (18, 19),
        (22, 23),
    ),
    norms=(_inter_ocular(8, 9), _inter_pupil((16,), (17,)), BOX),
    threshold=0.10,
    parts={},
)

_AFLW19 = Layout(
    name="aflw19",
    count=19,
    flip_pairs=(
        (0, 5),
        (1, 4),
        (2, 3),
        (6, 11),
        (7, 10),
        (8, 9),
        (12, 14),
        (15, 17),
    ),
    norms=(BOX, _inter_ocular(6, 11), _inter_pupil((7,), (10,))),
    threshold=0.07,
    parts={},
)
# fmt: on

LAYOUTS: Final = {layout.name: layout for layout in (_WFLW98, _W300_68, _COFW29, _AFLW19)}

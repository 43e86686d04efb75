"""Paint a posed head from its landmarks: skin, eyes, brows, nose, mouth, beard, hair, make-up, glasses.

Lengths are multiples of `Head.unit` (half a face's width in pixels); colours are BGR, 0-255.
Landmark numbers are WFLW's. No random draw depends on the picture's size.
"""

from dataclasses import dataclass

import numpy as np

from trainer.synthetic.canvas import Array, Head, Image, Rng, fill, line, ring, smooth, strands, tint

SKIN_TONES = np.array([[44, 54, 80], [56, 80, 120], [82, 112, 160], [110, 146, 196], [146, 180, 224], [180, 206, 242]])
_HAIR_TONES = np.array(
    [[18, 16, 18], [24, 30, 42], [34, 52, 82], [62, 98, 140], [110, 170, 208], [40, 64, 140], [180, 182, 186]]
)
_IRIS_TONES = np.array([[16, 26, 42], [24, 44, 74], [40, 76, 84], [104, 84, 58], [92, 88, 80]])
_LIPSTICKS = np.array([[44, 20, 180], [96, 40, 190], [50, 24, 110], [120, 50, 150], [30, 20, 210]])
_EYE_SHADOWS = np.array([[140, 60, 40], [130, 50, 110], [50, 40, 40], [60, 110, 60], [60, 60, 150]])
_HAIR_STYLES = {"bald": 0.1, "short": 0.24, "fringe": 0.14, "parted": 0.14, "long": 0.2, "curly": 0.1, "hat": 0.08}
_BEARDS = {"none": 0.68, "stubble": 0.1, "moustache": 0.06, "goatee": 0.07, "full": 0.09}
_BROWS = (slice(33, 42), slice(42, 51))
_EYES = (([60, 61, 62, 63, 64], [64, 65, 66, 67, 60], 96), ([68, 69, 70, 71, 72], [72, 73, 74, 75, 68], 97))


@dataclass(frozen=True)
class Look:
    """What does not move with the face: colours (3,) and hair."""

    skin: Array
    hair: Array
    iris: Array
    lips: Array
    cloth: Array
    hair_style: str
    beard: str
    made_up: bool


def sample_look(rng: Rng, made_up: bool) -> Look:
    skin = np.clip(mix_tones(SKIN_TONES, rng) * rng.uniform(0.94, 1.06, 3), 0, 250)
    tones = 3 if skin.mean() < 115 and rng.random() < 0.8 else len(_HAIR_TONES)
    hair = np.clip(_HAIR_TONES[rng.integers(tones)] * rng.uniform(0.8, 1.2), 0, 240)
    iris = _IRIS_TONES[rng.choice(5, p=(0.35, 0.3, 0.1, 0.15, 0.1))] * rng.uniform(0.8, 1.1)
    lipstick = _LIPSTICKS[rng.integers(len(_LIPSTICKS))] * rng.uniform(0.8, 1.2)
    lips = lipstick if made_up else skin * (0.62, 0.62, 0.92)
    style, beard = (str(rng.choice(list(table), p=list(table.values()))) for table in (_HAIR_STYLES, _BEARDS))
    cloth = rng.uniform(10, 230, 3)
    cloth = cloth.mean() + (cloth - cloth.mean()) * rng.uniform(0, 1)
    return Look(skin, hair, iris, lips, cloth, style, "none" if made_up else beard, made_up)


def mix_tones(tones: Array, rng: Rng) -> Array:
    """A colour (3,) between two neighbours of a scale (N, 3)."""
    position = rng.uniform(0, len(tones) - 1.001)
    low = int(position)
    return tones[low] + (tones[low + 1] - tones[low]) * (position - low)


def paint_head(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """Paint a person over the picture, back to front."""
    _paint_body(image, head, look, rng)
    _paint_hair_behind(image, head, look, rng)
    _paint_skin(image, head, look, rng)
    _paint_nose(image, head, look)
    _paint_beard(image, head, look, rng)
    _paint_mouth(image, head, look)
    if look.made_up:
        _paint_makeup(image, head, rng)
    _paint_eyes(image, head, look, rng)
    _paint_brows(image, head, look, rng)
    _paint_hair_in_front(image, head, look, rng)
    if rng.random() < 0.15:
        paint_glasses(image, head, rng, darkness=0.12)


def _lighter(colour: Array) -> Array:
    return np.minimum(colour * 1.3 + 16, 255)


def _paint_body(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """Long hair behind, neck in the chin's shadow, shoulders; the body hangs down, it does not roll with the head."""
    unit, chin = head.unit, head.landmarks[16]
    if look.hair_style == "long":
        _paint_long_hair(image, head, look, rng)
    base = head.project(np.array([0, 0.8, -0.6]))
    width, foot = rng.uniform(0.5, 0.66) * unit, (base + chin) / 2 + np.array([0, rng.uniform(0.5, 0.9) * unit])
    right, left = np.array([-width, 0]), np.array([width, 0])
    below = np.array([0, 9 * unit])
    fill(image, np.stack([base + right, foot + right, foot + below, foot + left, base + left]), look.skin * 0.82)
    tint(image, head.landmarks[4:29] + np.array([0, 0.16 * unit]), look.skin * 0.35, 0.6, 0.09 * unit)
    neckline = foot + np.array([[-0.8, 0.05], [-0.45, 0.25], [0, 0.4], [0.45, 0.25], [0.8, 0.05]]) * unit
    arm = foot + np.array([[1, 0.02], [1.4, 0.12], [1.75, 0.4], [1.9, 9]]) * unit * (rng.uniform(1, 1.3), 1)
    other_arm = np.column_stack([2 * foot[0] - arm[::-1, 0], arm[::-1, 1]])
    fill(image, ring(smooth(neckline), arm, other_arm), look.cloth)
    line(image, smooth(neckline), look.cloth * 0.6, 0.05 * unit)


def _paint_long_hair(image: Image, head: Head, look: Look, rng: Rng) -> None:
    length, spread = rng.uniform(1.2, 2.4), rng.uniform(1.1, 1.5)
    right = np.array([[-1.15, -0.6, -0.9], [-spread, length, -0.9], [-0.5 * spread, length * 1.06, -0.9]])
    fill(image, smooth(head.project(ring(right, right[::-1] * (-1, 1, 1)))), look.hair * 0.75)
    top = head.project(np.column_stack([rng.uniform(-1.2, 1.2, 30), np.full(30, -0.3), np.full(30, -0.9)]))
    strands(image, top, top + head.down * rng.uniform(0.8, length, (30, 1)), look.hair * 0.8, 0.02 * head.unit)


def _paint_hair_behind(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """The skull with its hair, and the ears."""
    volume = {"bald": 0.0, "hat": 0.04, "curly": 0.22}.get(look.hair_style, rng.uniform(0.05, 0.2))
    skull = head.ball((0, -0.42, -1.0), (1.03 + 0.7 * volume, 1.18 + volume, 1.2 + volume))
    colour = look.skin * 0.93 if look.hair_style == "bald" else look.hair
    fill(image, skull, colour)
    if look.hair_style == "curly":
        for curl in skull[rng.permutation(24)[:18]]:
            fill(image, head.disc(curl, *rng.uniform(0.16, 0.32, 2)), colour * rng.uniform(0.7, 1.2))
    elif look.hair_style != "bald":
        ends = smooth(skull, closed=True)[rng.integers(4 * len(skull), size=60)]
        starts = ends + (head.project(np.array([0, -1.1, -0.4])) - ends) * rng.uniform(0.2, 0.7, (60, 1))
        strands(image, starts, ends, colour, 0.02 * head.unit)
    for side in (-1, 1):
        ear = head.ball((1.04 * side, 0.2, -1.1), (0.1, 0.3, 0.2))
        fill(image, ear, look.skin * 0.85)
        middle = ear.mean(axis=0)
        tint(image, middle + 0.55 * (ear - middle), look.skin * (0.5, 0.5, 0.6), 0.6, 0.04 * head.unit)


def _paint_skin(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """The face's skin with a blotchy complexion, ruddy cheeks, the folds beside the mouth, sometimes moles."""
    points, unit = head.landmarks, head.unit
    fill(image, head.face(), look.skin)
    for spot in points[rng.integers(98, size=4)]:
        tint(image, head.disc(spot, 0.25, 0.25), look.skin * rng.uniform(0.85, 1.1, 3), 0.5, 0.1 * unit)
    for eye, corner, edge, wing in ((66, 76, 4, 55), (74, 82, 28, 59)):
        cheek = 0.45 * points[eye] + 0.35 * points[corner] + 0.2 * points[edge]
        tint(image, head.disc(cheek, 0.24, 0.2), look.skin * (0.8, 0.82, 1.05), 0.6, 0.1 * unit)
        end = points[corner] + 0.14 * (points[corner] - points[85])
        bend = 0.5 * (points[wing] + end) + 0.1 * (end - points[57])
        line(image, smooth(np.stack([points[wing], bend, end])), look.skin * 0.87, 0.03 * unit)
    if rng.random() < 0.2:
        for mole in points[rng.integers(51, 88, size=8)] + rng.normal(0, 0.25, (8, 2)) * unit:
            tint(image, head.disc(mole, 0.02, 0.02), look.skin * 0.6, 0.6)


def _paint_nose(image: Image, head: Head, look: Look) -> None:
    """Ridge highlight, a shaded flank, wings, nostrils and the lower edge through landmarks 55-59."""
    points, unit = head.landmarks, head.unit
    base, ridge = smooth(points[55:60]), smooth(points[51:55])
    flank = 55 if head.yaw > 0 else 59
    tint(image, points[[51, 54, 57, flank]], look.skin * 0.6, 0.45, 0.06 * unit)
    half_width = 0.035 * head.linear[:, 0]
    tint(image, ring(ridge - half_width, ridge[::-1] + half_width), _lighter(look.skin), 0.6, 0.025 * unit)
    tint(image, head.disc(points[54], 0.09, 0.08), _lighter(look.skin), 0.6, 0.05 * unit)
    tint(image, ring(base, base[::-1] + 0.09 * head.down), look.skin * 0.5, 0.5, 0.04 * unit)
    for inner, outer in ((56, 55), (58, 59)):
        nostril = 0.72 * points[inner] + 0.28 * points[outer] - 0.035 * head.down
        tint(image, head.disc(nostril, 0.06, 0.032), look.skin * 0.22, 0.9)
        bulge = points[outer] + 0.12 * (points[outer] - points[57]) - 0.09 * head.down
        wing = smooth(np.stack([points[outer], bulge, points[outer] - 0.2 * head.down]))
        line(image, wing, look.skin * 0.7, 0.03 * unit)
    line(image, base, look.skin * 0.55, 0.03 * unit)


def _paint_beard(image: Image, head: Head, look: Look, rng: Rng) -> None:
    if look.beard == "none":
        return
    points, unit = head.landmarks, head.unit
    lower_lip = smooth(points[[82, 83, 84, 85, 86, 87, 76]])
    under_nose = 0.35 * points[55:60] + 0.65 * points[[76, 77, 79, 81, 82]] - 0.02 * head.down
    moustache = ring(smooth(under_nose), smooth(points[82:75:-1]))
    chin = ring(smooth(points[12:21]), lower_lip)
    right, left = (
        (0.5 * points[edge] + 0.5 * points[corner] + 0.2 * head.down) for edge, corner in ((5, 76), (27, 82))
    )
    cheeks = ring(smooth(points[3:30]), smooth(np.stack([points[29], left, points[82]])), lower_lip)
    cheeks = ring(cheeks, smooth(np.stack([points[76], right, points[3]])))
    regions = {"moustache": [moustache], "goatee": [moustache, chin]}.get(look.beard, [moustache, cheeks])
    opacity, softness = (0.35, 0.05) if look.beard == "stubble" else (0.92, 0.035)
    for region in regions:
        tint(image, region, look.hair * 0.8, opacity, softness * unit)
        roots = region[rng.integers(len(region), size=30)]
        roots = roots + (region.mean(axis=0) - roots) * rng.uniform(0.05, 0.4, (30, 1))
        if look.beard != "stubble":
            strands(image, roots, roots + 0.1 * head.down, look.hair, 0.02 * unit)


def _paint_mouth(image: Image, head: Head, look: Look) -> None:
    """Two-toned lips; where the mouth is open its dark inside, tongue and teeth."""
    points, unit = head.landmarks, head.unit
    top, bottom = smooth(points[76:83]), smooth(points[[82, 83, 84, 85, 86, 87, 76]])
    upper, lower = smooth(points[88:93]), smooth(points[[92, 93, 94, 95, 88]])
    tint(image, ring(top, bottom) + 0.07 * head.down, look.skin * 0.5, 0.35, 0.06 * unit)
    fill(image, ring(top, bottom), look.lips)
    fill(image, ring(top, upper[::-1]), look.lips * 0.8)
    shine = 0.5 * (points[85] + points[94])
    tint(image, head.disc(shine, 0.13, 0.03), _lighter(look.lips), 0.6, 0.03 * unit)
    fill(image, ring(upper, lower), np.array([28, 18, 48]))
    gap = float(np.linalg.norm(points[94] - points[90])) / unit
    if gap > 0.08:
        teeth = upper + (lower[::-1] - upper) * (0.25 if gap > 0.3 else 0.55)
        fill(image, ring(upper, teeth[::-1]), np.array([196, 214, 222]))
        tongue = head.disc(0.3 * points[90] + 0.7 * points[94], 0.2, 0.12 * gap)
        tint(image, tongue, np.array([70, 60, 150]), 0.7, 0.03 * unit)
    line(image, upper, look.lips * 0.4, 0.03 * unit)


def _paint_makeup(image: Image, head: Head, rng: Rng) -> None:
    """Eye shadow up to the brow and rouge; lipstick and liner are painted with the lips and eyes."""
    points, unit = head.landmarks, head.unit
    shadow = _EYE_SHADOWS[rng.integers(len(_EYE_SHADOWS))] * rng.uniform(0.8, 1.3)
    reach, opacity, rouge = rng.uniform(0.5, 0.7), rng.uniform(0.6, 0.85), rng.uniform(0.15, 0.4)
    for (upper, lower, _), brow, edge in zip(_EYES, _BROWS, (5, 27), strict=True):
        lid = smooth(points[upper])
        raised = lid + (points[brow].mean(axis=0) - lid.mean(axis=0)) * reach
        tint(image, ring(lid, raised[::-1]), shadow, opacity, 0.04 * unit)
        cheek = 0.5 * (points[lower[2]] + points[edge])
        tint(image, head.disc(cheek, 0.22, 0.16), np.array([90, 70, 215]), rouge, 0.1 * unit)


def _paint_eyes(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """Socket shade, eyeball with iris and highlight seen between the lids, lid lines and crease."""
    points, unit, black = head.landmarks, head.unit, np.array([10, 9, 12])
    radius, pupil_radius = rng.uniform(0.09, 0.11), rng.uniform(0.03, 0.05)
    glint = rng.uniform(-0.03, 0.03, 2) @ head.linear[:, :2].T - 0.055 * head.down
    white = np.array([212, 220, 226]) * rng.uniform(0.88, 1.1)
    for (upper, lower, pupil), brow in zip(_EYES, _BROWS, strict=True):
        lid, bag, centre = smooth(points[upper]), smooth(points[lower]), points[pupil]
        middle, to_brow = lid.mean(axis=0), points[brow].mean(axis=0) - lid.mean(axis=0)
        if not look.made_up:
            tint(image, head.disc(middle, 0.26, 0.14), look.skin * (0.68, 0.68, 0.74), 0.5, 0.06 * unit)
        ball = np.empty_like(image)
        ball[:] = np.minimum(white, 255)
        fill(ball, head.disc(centre, radius, radius), look.iris * 0.55)
        fill(ball, head.disc(centre, 0.8 * radius, 0.8 * radius), look.iris)
        fill(ball, head.disc(centre, pupil_radius, pupil_radius), black)
        tint(ball, ring(lid, lid[::-1] + 0.03 * head.down), look.skin * 0.25, 0.4, 0.015 * unit)
        fill(ball, head.disc(centre + glint, 0.014, 0.014), np.full(3, 250))
        tint(image, ring(lid, bag), ball, 1.0)
        line(image, (lid + 0.28 * to_brow)[2:-2], look.skin * 0.72, 0.025 * unit)
        line(image, bag, look.skin * 0.6, 0.015 * unit)
        line(image, lid, black if look.made_up else look.skin * 0.32, (0.05 if look.made_up else 0.025) * unit)


def _paint_brows(image: Image, head: Head, look: Look, rng: Rng) -> None:
    opacity, colour = rng.uniform(0.65, 0.95), np.minimum(look.hair * 0.75, look.skin * 0.6)
    for brow in _BROWS:
        points = head.landmarks[brow]
        tint(image, smooth(points, closed=True), colour, opacity)
        roots = points[rng.integers(len(points), size=9)]
        strands(image, roots, roots + (points.mean(axis=0) - roots) * 0.3, colour, 0.015 * head.unit)


def _paint_hair_in_front(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """A fringe, a parting or a hat over the forehead; locks beside the cheeks of long hair."""
    line_up, brow = head.hairline, head.landmarks[[37, 42]].mean(axis=0)
    along = np.linspace(-1, 1, len(line_up))
    drops = {
        "fringe": rng.uniform(0.35, 0.65) * (1 - 0.5 * along**2),
        "parted": rng.uniform(0.3, 0.6) * np.abs(along - rng.choice([-0.4, 0.4])) ** 0.7,
        "long": rng.uniform(0.1, 0.3) * np.abs(along),
        "hat": np.full(len(along), 0.3),
    }
    if look.hair_style not in drops:
        return
    is_hat = look.hair_style == "hat"
    ragged = drops[look.hair_style] * (1 if is_hat else rng.uniform(0.75, 1.1, len(along)))
    edge = smooth(line_up + (brow - line_up) * (ragged * (1 - along**8))[:, None])
    outer = smooth(line_up + (line_up - brow) * 0.1)
    fill(image, ring(outer, edge[::-1]), look.cloth if is_hat else look.hair)
    if is_hat:
        fill(image, head.ball((0, -1.15, -0.95), (1.12, 0.75, 1.25)), look.cloth)
        return
    picks = rng.integers(len(outer), size=45)
    strands(image, outer[picks], edge[picks], look.hair, 0.02 * head.unit)
    if look.hair_style == "long":
        for start, cheek in ((line_up[0], head.landmarks[32]), (line_up[-1], head.landmarks[0])):
            out, hang = (cheek - brow) * 0.22, 1.3 * head.down
            lock = np.stack([start, cheek, cheek + hang, cheek + hang + out, cheek + out, start + out])
            fill(image, smooth(lock, closed=True), look.hair * 0.9)


def paint_glasses(image: Image, head: Head, rng: Rng, *, darkness: float) -> None:
    """Two lenses, bridge and temples; `darkness` is the opacity of the lenses."""
    unit, frame = head.unit, rng.uniform(0, 90, 3)
    glass = rng.uniform(0, 60, 3) if darkness > 0.5 else np.full(3, 230.0)
    width, height = rng.uniform(0.3, 0.36), rng.uniform(0.22, 0.3)
    right, left = head.landmarks[60:68].mean(axis=0), head.landmarks[68:76].mean(axis=0)
    for centre in (right, left):
        rim = head.disc(centre + 0.04 * head.down, width, height)
        tint(image, rim, glass, darkness)
        line(image, ring(rim, rim[:1]), frame, 0.045 * unit)
    reach = width * head.linear[:, 0]
    for start, end in (
        (right + reach, left - reach),
        (right - reach, head.landmarks[0]),
        (left + reach, head.landmarks[32]),
    ):
        line(image, np.stack([start, end]), frame, 0.045 * unit)

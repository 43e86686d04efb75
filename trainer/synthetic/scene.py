"""Paint the whole picture of a synthetic face: background, person, light, occluders, camera.

Colours are BGR, 0-255. No random draw depends on the picture's size, except the camera's noise, which is drawn last.
"""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.synthetic.canvas import CIRCLE, Array, Head, Image, Rng, fill, line, ring, smooth, tint
from trainer.synthetic.painting import SKIN_TONES, Look, mix_tones, paint_glasses, paint_head, sample_look


def paint_scene(head: Head, strong: Mapping[str, bool], rng: Rng, size: int) -> Image:
    """Paint the picture of a posed head.

    Args:
        strong: for each name in `synthetic.ATTRIBUTES`, whether that nuisance is strong.

    Returns:
        (size, size, 3) in BGR order.
    """
    look = sample_look(rng, strong["make-up"])
    image = _paint_background(rng, size)
    paint_head(image, head, look, rng)
    image = _relight(image, head, rng, strong["illumination"])
    if strong["occlusion"]:
        _OCCLUDERS[rng.integers(len(_OCCLUDERS))](image, head, look, rng)
    return _photograph(_blur(image, head.unit, rng, strong["blur"]), rng, smoothed=strong["blur"])


def _paint_background(rng: Rng, size: int) -> Image:
    """(size, size, 3) of smooth colour, texture and random shapes, some of them skin-coloured."""
    cells, vividness = int(rng.integers(2, 8)), rng.uniform(0.05, 0.8)
    coarse = rng.uniform(0, 255, (cells, cells, 3)) * rng.uniform(0.1, 0.8)
    coarse = coarse + rng.uniform(0, 200, 3) * rng.uniform(0.2, 0.9)
    grey = coarse.mean(axis=-1, keepdims=True)
    coarse = np.clip(grey + (coarse - grey) * vividness, 0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 10)):
        centre, reach = rng.uniform(0, size, 2), rng.uniform(0.03, 0.35) * size * rng.uniform(0.3, 1, 2)
        colour = mix_tones(SKIN_TONES, rng) if rng.random() < 0.3 else _random_colour(rng)
        shape = CIRCLE if rng.random() < 0.4 else rng.uniform(-1, 1, (int(rng.integers(3, 6)), 2))
        tint(image, centre + reach * shape, colour, rng.uniform(0.3, 1), rng.uniform(0, 0.015) * size)
    grain = rng.normal(0, rng.uniform(0, 12), (64, 64)).astype(np.float32)
    grain = cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def _random_colour(rng: Rng) -> Array:
    colour = rng.uniform(5, 245, 3)
    return colour.mean() + (colour - colour.mean()) * rng.uniform(0, 1)


# Light


def _relight(image: Image, head: Head, rng: Rng, strong: bool) -> Image:
    """Shade the head as a relief under a directed light; then brightness, cast and gamma of the whole picture.

    A strong one is a lamp from the side, near darkness, over-exposure or a coloured light.
    """
    kind = rng.integers(4) if strong else -1
    direction, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.5)
    brightness, gamma, cast = rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), rng.uniform(0.94, 1.06, 3)
    if kind == 0:
        depth, direction = rng.uniform(1.1, 1.6), rng.integers(2) * np.pi + rng.uniform(-0.5, 0.5)
    elif kind == 1:
        brightness = rng.uniform(0.24, 0.4)
    elif kind == 2:
        brightness = rng.uniform(1.7, 2.2)
    elif kind == 3:
        cast = np.roll([1.4, 0.8, 0.5], rng.integers(3))[:: rng.choice([-1, 1])] * rng.uniform(0.75, 1)
    slope_x, slope_y = _relief_slopes(image.shape[0], head)
    shade = (1 - 0.2 * depth) - depth * float(np.cos(direction)) * slope_x - depth * float(np.sin(direction)) * slope_y
    shade = np.clip(shade, 0.15, 1.5)[..., None] * (brightness * cast).astype(np.float32)
    curve = (255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return cv2.LUT(cv2.multiply(image, shade, dtype=cv2.CV_8U), curve)


def _relief_slopes(size: int, head: Head) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Slopes (size, size) along x and y of a height map: a domed head with nose and lips out, eye sockets in.

    Computed at half size: the slopes are smooth.
    """
    points, unit, half = (head.landmarks - 0.5) / 2, head.unit / 2, (size + 1) // 2
    dome, detail = np.zeros((half, half), np.float32), np.zeros((half, half), np.float32)
    for outline, level in ((head.ball((0, -0.42, -1.0), (1.05, 1.2, 1.2)), 0.7), (head.face(), 1.2)):
        cv2.fillPoly(dome, [np.rint((outline - 0.5) / 2).astype(np.int32)], level)
    inside = cv2.GaussianBlur((dome > 0).astype(np.float32), (0, 0), 0.05 * unit)
    bumps = ((points[[51, 55, 57, 59]], 0.25), (points[76:88], 0.1), (points[60:68], -0.15), (points[68:76], -0.15))
    for part, bump in bumps:
        cv2.fillConvexPoly(detail, np.rint(part).astype(np.int32), bump)
    height = cv2.GaussianBlur(dome, (0, 0), 0.3 * unit) + cv2.GaussianBlur(detail, (0, 0), 0.09 * unit)
    slopes = (inside * cv2.Sobel(height, cv2.CV_32F, *order, ksize=1, scale=unit / 2) for order in ((1, 0), (0, 1)))
    slope_x, slope_y = (cv2.resize(slope, (size, size), interpolation=cv2.INTER_LINEAR) for slope in slopes)
    return slope_x, slope_y


# Occluders


def _occlude_with_sunglasses(image: Image, head: Head, look: Look, rng: Rng) -> None:
    paint_glasses(image, head, rng, darkness=0.97)


def _occlude_with_hand(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """A palm and four fingers that reach over the face from a random side."""
    unit, skin, angle = head.unit, np.minimum(look.skin * rng.uniform(0.8, 1.1), 255), rng.uniform(0, 2 * np.pi)
    towards = np.array([np.cos(angle), np.sin(angle)]) * unit
    sideways = np.array([-towards[1], towards[0]])
    palm = head.landmarks[rng.choice([54, 85, 66, 74, 8, 24, 16])] - 0.95 * towards
    wrist = palm - 2.5 * towards
    arm = [palm + 0.35 * sideways, palm - 0.35 * sideways, wrist - 0.4 * sideways, wrist + 0.4 * sideways]
    fill(image, np.stack(arm), skin)
    fill(image, palm + CIRCLE * 0.42 * unit, skin)
    for number, reach in enumerate((0.9, 1.1, 1.05, 0.82)):
        root = palm + (number - 1.5) * 0.22 * sideways
        finger = np.stack([root, palm + 1.25 * (root - palm) + reach * towards])
        line(image, finger, skin * 0.6, 0.25 * unit)
        line(image, finger, skin * (1 - 0.03 * number), 0.19 * unit)


def _occlude_with_thing(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """A phone, book or cup: a turned rectangle with a pattern over a part of the face."""
    angle, half = rng.uniform(0, np.pi), rng.uniform(0.35, 0.65, 2) * head.unit
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = head.landmarks[rng.choice([6, 26, 16, 54, 66, 74, 85])]
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    fill(image, centre + corners @ axes, _random_colour(rng))
    for _ in range(3):
        mark = corners * rng.uniform(0.1, 0.5, 2) + rng.uniform(-0.5, 0.5, 2) * half
        tint(image, centre + mark @ axes, _random_colour(rng), 0.8)


def _occlude_with_mask(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """A surgical mask or scarf from the nose down."""
    points, colour = head.landmarks, np.minimum(_random_colour(rng) + 60, 255)
    top, bottom = points[[28, 59, 53, 55, 4]], points[[26, 20, 16, 12, 6]]
    fill(image, ring(smooth(points[16] + (points[4:29] - points[16]) * 1.02), smooth(top)), colour)
    for share in rng.uniform(0.1, 0.9, 4):
        fold = smooth(top * share + bottom * (1 - share))
        line(image, fold, colour * rng.uniform(0.6, 0.9), 0.03 * head.unit)


def _occlude_with_band(image: Image, head: Head, look: Look, rng: Rng) -> None:
    """A striped band across the face: a strap, a branch, somebody's arm."""
    anchor, angle = head.landmarks[rng.choice([51, 54, 85, 63, 71, 76, 82])], rng.uniform(0, np.pi)
    along, across = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * head.unit
    bend, width = across * rng.uniform(-1, 1), rng.uniform(0.35, 0.55)
    curve = smooth(np.stack([anchor - 4 * along + bend, anchor, anchor + 4 * along + bend]))
    line(image, curve, _random_colour(rng), width * head.unit)
    for share in rng.uniform(-0.4, 0.4, 3):
        line(image, curve + across * width * share, _random_colour(rng), 0.06 * head.unit)


_OCCLUDERS: tuple[Callable[[Image, Head, Look, Rng], None], ...] = (
    _occlude_with_sunglasses,
    _occlude_with_hand,
    _occlude_with_thing,
    _occlude_with_mask,
    _occlude_with_band,
)


# Camera


def _blur(image: Image, unit: float, rng: Rng, strong: bool) -> Image:
    """A slight softness, or a strong defocus, motion blur or low resolution; none moves the landmarks."""
    kind, amount, angle = rng.integers(3), rng.uniform(), rng.uniform(0, np.pi)
    if not strong:
        return cv2.GaussianBlur(image, (0, 0), max(0.02 * amount * unit, 0.2)) if amount > 0.5 else image
    if kind == 0:
        return cv2.GaussianBlur(image, (0, 0), (0.05 + 0.04 * amount) * unit)
    if kind == 1:
        return cv2.filter2D(image, -1, _motion_kernel((0.2 + 0.2 * amount) * unit, angle))
    small = max(int(image.shape[0] * (13 - 4 * amount) / unit), 8)
    coarse = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(coarse, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)


def _motion_kernel(length: float, angle: float) -> NDArray[np.float32]:
    """A centred line of `length` pixels with sum 1."""
    reach = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    line(kernel, np.stack([reach - step, reach + step]), np.full(1, 255), 1)
    return kernel.astype(np.float32) / np.float32(kernel.sum())


def _photograph(image: Image, rng: Rng, *, smoothed: bool) -> Image:
    """Sensor noise and JPEG; a smoothed picture keeps little noise, or it would not look blurred."""
    noise = rng.uniform(0, 4) if rng.random() < 0.75 else rng.uniform(4, 11)
    quality = int(rng.integers(30, 100))
    grain = rng.standard_normal((*image.shape[:2], 1), np.float32) * np.float32(0.3 * noise if smoothed else noise)
    image = np.clip(image + grain, 0, 255).astype(np.uint8)
    if quality > 85:
        return image
    _, code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR), dtype=np.uint8)

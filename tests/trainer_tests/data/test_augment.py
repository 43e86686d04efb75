"""Augmentation: pictures and landmarks move together, and nothing but (seed, epoch, index) decides how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer.coords import transform
from trainer.data.augment import augment, generator, sample_affine, sample_changes
from trainer.data_config import AugmentConfig
from trainer.landmarks import LAYOUTS

SIZE, CANVAS = 64, 80
FLIP = np.array(LAYOUTS["w300_68"].flip)
OFF = {"flip": 0.0, "rotation": 0.0, "scale": 0.0, "shift": 0.0, "colour": 0.0, "occlusion": 0.0, "blur": 0.0}
POINTS = np.random.default_rng(2).uniform(8, 56, (68, 2))
CLUTTER = np.random.default_rng(1).integers(0, 256, (CANVAS, CANVAS, 3), dtype=np.uint8)


def only(**strengths: float) -> AugmentConfig:
    return AugmentConfig(**{**OFF, **strengths})


def make(config: AugmentConfig, seed: int = 0, epoch: int = 1, index: int = 0, canvas=CLUTTER) -> tuple[Any, Any, bool]:
    return augmented(canvas, POINTS, config, generator(seed, epoch, index))


def augmented(canvas: np.ndarray, points: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> Any:
    """Picture, landmarks, and whether they are mirrored."""
    changes = sample_changes(config, rng, SIZE)
    return augment(canvas, changes, SIZE), changes.move(points, FLIP), changes.mirrored


def central(canvas: np.ndarray) -> np.ndarray:
    margin = (CANVAS - SIZE) // 2
    return canvas[margin : margin + SIZE, margin : margin + SIZE]


def dot_at(point: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """A canvas with a soft bright dot at a point given in pixels of the central crop."""
    y, x = np.mgrid[:CANVAS, :CANVAS] - (CANVAS - SIZE) / 2
    bump = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))
    return np.repeat((bump * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def centre_of_mass(picture: np.ndarray) -> np.ndarray:
    weight = picture[..., 0].astype(float)
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def same(a: tuple[Any, Any, bool], b: tuple[Any, Any, bool]) -> bool:
    return bool(np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2])


@pytest.mark.parametrize("key", [(0, 1, 0), (7, 30, 1234), (2**40, 2**33, 2**35)])
def test_the_same_key_gives_the_same_bits(key: tuple[int, int, int]) -> None:
    assert same(make(AugmentConfig(), *key), make(AugmentConfig(), *key))


def test_every_part_of_the_key_matters() -> None:
    first = make(AugmentConfig(), 0, 1, 2)
    for other in [(1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1), (2, 1, 0)]:
        assert not np.array_equal(first[0], make(AugmentConfig(), *other)[0])


def test_what_was_drawn_before_does_not_matter() -> None:
    alone = make(AugmentConfig(), 0, 1, 5)
    for index in range(5):
        make(AugmentConfig(), 0, 1, index)
    np.random.seed(3)
    assert same(make(AugmentConfig(), 0, 1, 5), alone)


def test_the_canvas_and_the_landmarks_are_left_alone() -> None:
    canvas, points = CLUTTER.copy(), POINTS.copy()
    canvas.flags.writeable = points.flags.writeable = False
    for index in range(20):
        augmented(canvas, points, only(occlusion=1, blur=1, colour=1), generator(0, 1, index))
    assert np.array_equal(canvas, CLUTTER)


def test_picture_and_landmarks_have_the_documented_form() -> None:
    picture, points, mirrored = make(AugmentConfig())
    assert (picture.shape, picture.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (points.shape, points.dtype) == ((68, 2), np.float64)
    assert isinstance(mirrored, bool)


@pytest.mark.parametrize("index", range(5))
def test_zero_strengths_give_the_central_crop(index: int) -> None:
    picture, points, mirrored = make(only(), index=index)
    assert np.array_equal(picture, central(CLUTTER))
    assert np.array_equal(points, POINTS)
    assert not mirrored


def test_a_flip_mirrors_the_picture_and_permutes_the_landmarks() -> None:
    picture, points, mirrored = make(only(flip=1))
    assert mirrored
    assert np.array_equal(picture, central(CLUTTER)[:, ::-1])
    np.testing.assert_allclose(points, (POINTS * [-1, 1] + [SIZE - 1, 0])[FLIP], atol=1e-9)


@pytest.mark.parametrize("landmark", [0, 30, 45])
def test_landmarks_move_with_the_picture(landmark: int) -> None:
    config, start = only(flip=0.5, rotation=40, scale=0.3, shift=0.1), POINTS[landmark]
    seen = {True: 0, False: 0}
    for index in range(60):
        picture, points, mirrored = make(config, index=index, canvas=dot_at(start))
        expected = points[np.flatnonzero(landmark == FLIP)[0]] if mirrored else points[landmark]
        if (np.abs(expected - (SIZE - 1) / 2) > (SIZE - 1) / 2 - 8).any():
            continue  # the dot is cut by the edge
        assert np.abs(centre_of_mass(picture) - expected).max() < 0.3, index
        seen[mirrored] += 1
    assert min(seen.values()) > 8


def test_missing_landmarks_stay_missing_and_go_where_the_mirror_takes_them() -> None:
    points = POINTS.copy()
    points[3] = np.nan
    _, moved, _ = augmented(CLUTTER, points, only(flip=1, rotation=20), generator(0, 1, 0))
    assert np.flatnonzero(np.isnan(moved).any(axis=1)).tolist() == [13]


def drawn(config: AugmentConfig, count: int = 400) -> tuple[np.ndarray, ...]:
    """Angle, scale, shift (fraction of the crop) and mirror of many draws, measured on the maps."""
    maps = [sample_affine(config, generator(0, 1, index), SIZE) for index in range(count)]
    matrices = np.stack([matrix for matrix, _ in maps])
    centre = np.full(2, (SIZE - 1) / 2)
    angle = np.degrees(np.arctan2(-matrices[:, 0, 1], matrices[:, 1, 1]))
    scale = np.linalg.norm(matrices[:, :, 1], axis=1)
    shift = np.stack([transform(centre, matrix) - centre for matrix in matrices]) / SIZE
    mirrored = np.linalg.det(matrices[:, :, :2]) < 0
    assert mirrored.tolist() == [flag for _, flag in maps]
    return angle, scale, shift, mirrored


def test_strengths_are_limits_and_are_reached() -> None:
    angle, scale, shift, mirrored = drawn(AugmentConfig(flip=0.3, rotation=40, scale=0.25, shift=0.1))
    assert 38 < np.abs(angle).max() <= 40
    assert 0.75 <= scale.min() < 0.76
    assert 1.24 < scale.max() <= 1.25
    assert 0.095 < np.abs(shift).max() <= 0.1
    assert 0.22 < mirrored.mean() < 0.38
    assert abs(angle.mean()) < 4
    assert abs(scale.mean() - 1) < 0.03


@pytest.mark.parametrize("knob", list(OFF))
def test_every_knob_has_an_effect_of_its_own(knob: str) -> None:
    strengths = {
        "flip": 1.0,
        "rotation": 20.0,
        "scale": 0.2,
        "shift": 0.1,
        "colour": 0.5,
        "occlusion": 1.0,
        "blur": 1.0,
    }
    picture, points, mirrored = make(only(**{knob: strengths[knob]}))
    assert not np.array_equal(picture, central(CLUTTER))
    assert np.array_equal(points, POINTS) == (knob in ("colour", "occlusion", "blur"))
    assert mirrored == (knob == "flip")


@pytest.mark.parametrize("knob", ["flip", "occlusion", "blur"])
def test_probabilities_are_kept(knob: str) -> None:
    changed = [not np.array_equal(make(only(**{knob: 0.3}), index=i)[0], central(CLUTTER)) for i in range(300)]
    assert 0.2 < np.mean(changed) < 0.4


@pytest.mark.parametrize("knob", ["rotation", "scale", "shift", "colour"])
def test_a_stronger_knob_changes_more(knob: str) -> None:
    smooth = dot_at(np.array([20.0, 31.5]), 8)
    weak, strong = {"rotation": (5, 30), "scale": (0.05, 0.3), "shift": (0.02, 0.2), "colour": (0.1, 0.8)}[knob]

    def change(strength: float) -> float:
        pictures = np.stack([make(only(**{knob: strength}), index=i, canvas=smooth)[0] for i in range(30)])
        return float(np.abs(pictures.astype(float) - central(smooth)).mean())

    assert change(strong) > 1.5 * change(weak)


def test_an_occlusion_is_one_rectangle_of_about_one_colour() -> None:
    grey = np.full((CANVAS, CANVAS, 3), 128, np.uint8)
    for index in range(30):
        picture, _, _ = make(only(occlusion=1), index=index, canvas=grey)
        covered = (picture != 128).any(-1)
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        patch = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert 0.08 * SIZE <= len(patch) <= 0.42 * SIZE
        assert patch.reshape(-1, 3).std(axis=0).max() < 20


def test_a_blur_smooths() -> None:
    sharp = central(CLUTTER).astype(float)
    for index in range(10):
        blurred = make(only(blur=1), index=index)[0].astype(float)
        assert np.abs(np.diff(blurred, axis=1)).mean() < np.abs(np.diff(sharp, axis=1)).mean()
        assert abs(blurred.mean() - sharp.mean()) < 3

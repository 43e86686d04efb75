"""The one coordinate convention: hand-computed places and round trips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainer.coords import crop_matrix, invert, to_normalised, to_pixels, transform
from trainer.heatmap import decode

RNG = np.random.default_rng(3)
BOX = np.array([100.0, 40.0, 180.0, 100.0])  # 80 x 60, centre (140, 70)


@pytest.mark.parametrize(
    ("size", "pixel", "normalised"),
    [(5, 0, -1), (5, 4, 1), (5, 2, 0), (5, 1, -0.5), (5, -2, -2), (64, 31.5, 0), (256, 255, 1), (2, 0.5, 0)],
)
def test_places_computed_by_hand(size: int, pixel: float, normalised: float) -> None:
    assert to_normalised(np.float64(pixel), size) == pytest.approx(normalised, abs=1e-15)
    assert to_pixels(np.float64(normalised), size) == pytest.approx(pixel, abs=1e-13)


@pytest.mark.parametrize("size", [2, 33, 64, 256])
def test_normalised_and_back(size: int) -> None:
    points = RNG.uniform(-20, size + 20, (7, 98, 2))
    np.testing.assert_allclose(to_pixels(to_normalised(points, size), size), points, atol=1e-11)
    tensor = torch.from_numpy(points)
    torch.testing.assert_close(to_pixels(to_normalised(tensor, size), size), tensor)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 12), (5, 9), (1, 4)])
def test_a_heatmap_cell_is_where_the_convention_puts_it(height: int, width: int) -> None:
    for row, column in [(0, 0), (0, width - 1), (height - 1, 0), (height // 2, width // 3)]:
        heatmap = torch.full((1, 1, height, width), -1e4)
        heatmap[0, 0, row, column] = 0
        x = 2 * column / (width - 1) - 1
        y = 2 * row / (height - 1) - 1 if height > 1 else -1
        torch.testing.assert_close(decode(heatmap), torch.tensor([[[x, y]]]))


def test_the_middle_of_the_box_comes_to_the_middle_of_the_crop() -> None:
    for size, canvas in [(64, None), (64, 80), (256, 320), (33, 35)]:
        middle = ((canvas or size) - 1) / 2
        moved = transform(np.array([140.0, 70.0]), crop_matrix(BOX, 1.25, size, canvas))
        np.testing.assert_allclose(moved, [middle, middle], atol=1e-12)


def test_the_enlarged_box_fills_the_crop_from_edge_to_edge() -> None:
    matrix = crop_matrix(BOX, 1.25, 50)  # side 80 * 1.25 = 100 -> 50 pixels: scale 0.5
    np.testing.assert_allclose(matrix, [[0.5, 0, 24.5 - 70], [0, 0.5, 24.5 - 35]])
    edges = transform(np.array([[140.0 - 50, 70 - 50], [140 + 50, 70 + 50]]), matrix)
    np.testing.assert_allclose(edges, [[-0.5, -0.5], [49.5, 49.5]])  # outer edges of the first and the last pixel


def test_a_canvas_shows_the_surroundings_at_the_same_scale() -> None:
    plain, wide = crop_matrix(BOX, 1.25, 64), crop_matrix(BOX, 1.25, 64, 80)
    np.testing.assert_array_equal(plain[:, :2], wide[:, :2])
    np.testing.assert_allclose(wide[:, 2] - plain[:, 2], [8, 8])


def test_a_tall_box_is_as_good_as_a_wide_one() -> None:
    matrix = crop_matrix(BOX[[1, 0, 3, 2]], 1.25, 50)
    assert matrix[0, 0] == matrix[1, 1] == 0.5
    np.testing.assert_allclose(transform(np.array([70.0, 140.0]), matrix), [24.5, 24.5])


def test_transform_is_the_affine_map() -> None:
    matrix = np.array([[0.0, -2.0, 5.0], [3.0, 0.0, 7.0]])
    np.testing.assert_array_equal(transform(np.array([[1.0, 10.0], [0.0, 0.0]]), matrix), [[-15, 10], [5, 7]])
    assert transform(np.zeros((4, 98, 2)), matrix).shape == (4, 98, 2)


def test_invert_undoes() -> None:
    for _ in range(20):
        matrix = np.column_stack([RNG.normal(size=(2, 2)) + 3 * np.eye(2), RNG.normal(size=2) * 100])
        points = RNG.uniform(-300, 300, (50, 2))
        np.testing.assert_allclose(transform(transform(points, matrix), invert(matrix)), points, atol=1e-9)
        np.testing.assert_allclose(invert(invert(matrix)), matrix, atol=1e-9)


def test_missing_landmarks_stay_missing() -> None:
    points = np.array([[np.nan, np.nan], [140.0, 70.0]])
    moved = to_normalised(transform(points, crop_matrix(BOX, 1.25, 64)), 64)
    assert np.isnan(moved[0]).all()
    np.testing.assert_allclose(moved[1], [0, 0], atol=1e-12)

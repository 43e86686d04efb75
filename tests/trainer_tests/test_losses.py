"""Losses: the published STAR code's numbers, a slow form written out, contracts that every loss keeps."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.config import LossConfig
from trainer.heatmap import decode, spatial_moments
from trainer.losses import LandmarkLoss, masked_mean, smooth_l1, soft_wing, star_loss, wing

REFERENCE = np.load(Path(__file__).parent / "reference" / "star_reference.npz")
PUBLISHED = {"smoothl1": "smooth_l1", "l1": "l1", "l2": "l2"}
DISTANCES = ["smooth_l1", "l1", "l2", "wing"]

distances = pytest.mark.parametrize("distance", DISTANCES)


def random_case(seed: int, shape: tuple[int, ...] = (2, 3, 9, 7), sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits (B, K, H, W) and targets (B, K, 2), float64."""
    rng = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(shape, generator=rng, dtype=torch.float64)
    return logits, torch.rand((*shape[:2], 2), generator=rng, dtype=torch.float64) * 1.6 - 0.8


def blob(points: Tensor, size: int = 16, sigma: float = 0.08) -> Tensor:
    """Logits (B, K, size, size) of round bumps about points (B, K, 2) in [-1, 1]."""
    axis = torch.linspace(-1, 1, size, dtype=points.dtype)
    x, y = axis - points[..., :1], axis - points[..., 1:]  # (B, K, size) each
    return -(x.square()[..., None, :] + y.square()[..., :, None]) / (2 * sigma**2)


# --- the published code


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight", [0, 1, 10])
@pytest.mark.parametrize("name", PUBLISHED)
def test_loss_and_gradient_of_the_published_code(name: str, weight: int, dtype: torch.dtype) -> None:
    logits = torch.tensor(REFERENCE["logits"], dtype=dtype, requires_grad=True)
    target = torch.tensor(REFERENCE["target"], dtype=dtype)
    loss = star_loss(logits, target, star_weight=weight, distance=PUBLISHED[name])
    loss.backward()
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(float(REFERENCE[f"loss_{name}_w{weight}"]), rel=1e-5)
    expected = REFERENCE[f"grad_{name}_w{weight}"]
    assert logits.grad is not None
    assert np.abs(logits.grad.numpy() - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_of_the_published_code(dtype: torch.dtype) -> None:
    moments = spatial_moments(torch.tensor(REFERENCE["logits"], dtype=dtype))
    np.testing.assert_allclose(moments.mean.numpy(), REFERENCE["mean"], atol=1e-6)
    covariance = torch.stack([moments.xx, moments.xy, moments.xy, moments.yy], -1).unflatten(-1, (2, 2))
    np.testing.assert_allclose(covariance.numpy(), REFERENCE["cov"], rtol=1e-5, atol=1e-6)


# --- the same, written out


def slow_distance(t: float, distance: str) -> float:
    if distance == "l2":
        return t * t
    size = max(abs(t), 1e-3)
    if distance == "smooth_l1":
        return 0.5 * size**2 / 0.01 if size < 0.01 else size - 0.005
    if distance == "wing":
        if size < 0.08:
            return 0.08 * math.log(1 + size / 0.016)
        return size - (0.08 - 0.08 * math.log(1 + 0.08 / 0.016))
    return size


def slow_star(logits: Tensor, target: Tensor, weight: float, distance: str) -> float:
    """One landmark at a time, one cell at a time: logits (B, K, H, W)."""
    values = []
    for b, k in itertools.product(*map(range, logits.shape[:2])):
        p = logits[b, k].exp() / logits[b, k].exp().sum()
        height, width = p.shape
        places = itertools.product(range(height), range(width))
        cells = [(p[i, j], p.new_tensor([2 * j / (width - 1) - 1, 2 * i / (height - 1) - 1])) for i, j in places]
        mean = sum(q * c for q, c in cells)
        v1 = sum(q for q, _ in cells) + 1e-5
        v2 = sum(q * q for q, _ in cells) + 1e-5
        covariance = sum(q * torch.outer(c - mean, c - mean) for q, c in cells) / (v1 - v2 / v1)
        spread, axes = torch.linalg.eigh(covariance)
        error = target[b, k] - mean
        value = sum(slow_distance(float(axes[:, i] @ error), distance) / math.sqrt(spread[i] + 1e-5) for i in range(2))
        values.append(value + weight * float(spread.abs().sum()))
    return float(np.mean(values))


@distances
@pytest.mark.parametrize("seed", range(3))
def test_the_closed_form_is_the_eigensolvers(distance: str, seed: int) -> None:
    logits, target = random_case(seed)
    found = star_loss(logits, target, star_weight=0.7, distance=distance)
    assert found.item() == pytest.approx(slow_star(logits, target, 0.7, distance), rel=1e-5)


def test_a_two_cell_heatmap_by_hand() -> None:
    """Two cells at x = -1 and 1 on the middle row, half of the weight each."""
    logits = torch.full((1, 1, 3, 3), -1e4, dtype=torch.float64)
    logits[0, 0, 1, 0] = logits[0, 0, 1, 2] = 0
    moments = spatial_moments(logits)
    norm = (1 + 1e-5) - (0.5 + 1e-5) / (1 + 1e-5)
    assert moments.mean.tolist() == [[[0, 0]]]
    assert moments.xx.item() == pytest.approx(1 / norm)
    assert (moments.yy.item(), moments.xy.item()) == (0, 0)
    target = torch.tensor([[[0.5, 0.25]]], dtype=torch.float64)
    expected = 0.5 / math.sqrt(1 / norm + 1e-5) + 0.25 / math.sqrt(1e-5) + 3 / norm
    assert star_loss(logits, target, star_weight=3, distance="l1").item() == pytest.approx(expected, rel=1e-6)


@distances
def test_gradient_is_the_derivative(distance: str) -> None:
    logits, target = random_case(11, (1, 2, 5, 4))

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return star_loss(logits, target, star_weight=1.5, distance=distance)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), target.requires_grad_()))


# --- heatmaps that break an eigensolver

AXIS = torch.linspace(-1, 1, 8)
ONE_HOT = torch.zeros(1, 1, 8, 8)
ONE_HOT[0, 0, 2, 5] = 1
HARD = {
    "round": -(AXIS[:, None] ** 2 + AXIS[None] ** 2).view(1, 1, 8, 8) * 9,
    "one-hot": ONE_HOT * 1e4,
    "flat": torch.zeros(1, 1, 8, 8),
    "all equal": torch.full((1, 1, 8, 8), 7.0),
    "one column": ONE_HOT.amax(2, keepdim=True).expand(1, 1, 8, 8) * 1e4,
    "huge": torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 1e6,
    "huge, all equal": torch.full((1, 1, 8, 8), -1e6),
    "two far peaks": (ONE_HOT + ONE_HOT.flip(2, 3)) * 1e4,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("at", ["apart", "on the mean"])
@pytest.mark.parametrize("kind", HARD)
@distances
def test_star_stays_finite(distance: str, kind: str, at: str, dtype: torch.dtype) -> None:
    logits = HARD[kind].to(dtype).clone().requires_grad_()
    target = torch.tensor([[[0.3, -0.2]]])
    if at == "on the mean":
        target = decode(logits.detach())
    loss = star_loss(logits, target, star_weight=1.0, distance=distance)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@distances
def test_a_round_heatmap_is_pulled_towards_the_target(distance: str) -> None:
    logits = HARD["round"].double().clone().requires_grad_()
    target = torch.tensor([[[0.4, 0.0]]], dtype=torch.float64)
    star_loss(logits, target, star_weight=0, distance=distance).backward()
    assert logits.grad is not None
    moved = decode(logits.detach() - 0.1 * logits.grad / logits.grad.abs().max())
    assert moved[0, 0, 0] > 1e-4
    assert abs(moved[0, 0, 1]) < 1e-6


# --- what must not matter, and what must


@distances
def test_turning_the_picture_changes_nothing(distance: str) -> None:
    logits, target = random_case(5)
    turned = torch.rot90(logits, 1, (2, 3))  # counterclockwise: (x, y) -> (y, -x)
    turned_target = torch.stack([target[..., 1], -target[..., 0]], -1)
    before, after = (star_loss(*case, distance=distance) for case in [(logits, target), (turned, turned_target)])
    torch.testing.assert_close(before, after)
    mirrored = star_loss(logits.flip(-1), target * torch.tensor([-1.0, 1.0]), distance=distance)
    torch.testing.assert_close(before, mirrored)


@distances
def test_shifting_the_picture_changes_nothing(distance: str) -> None:
    logits, target = random_case(6, (2, 3, 5, 5))
    losses = []
    for right, down in [(0, 0), (3, 1), (6, 6)]:
        wide = torch.full((2, 3, 11, 11), -1e4, dtype=torch.float64)
        wide[..., down : down + 5, right : right + 5] = logits
        shift = torch.tensor([right, down], dtype=torch.float64) * (2 / 10)
        losses.append(star_loss(wide, target * 0.4 - 0.6 + shift, distance=distance))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2])


@distances
def test_a_constant_added_to_the_logits_changes_nothing(distance: str) -> None:
    logits, target = random_case(7)
    torch.testing.assert_close(
        star_loss(logits + 100, target, distance=distance), star_loss(logits, target, distance=distance)
    )


@distances
def test_the_weight_adds_the_eigenvalues(distance: str) -> None:
    logits, target = random_case(8)
    moments = spatial_moments(logits)
    spread = (moments.xx + moments.yy).mean().item()
    bare, one, ten = (star_loss(logits, target, star_weight=w, distance=distance).item() for w in (0, 1, 10))
    assert bare < one < ten
    assert one - bare == pytest.approx(spread, rel=1e-6)
    assert ten - bare == pytest.approx(10 * spread, rel=1e-6)


def test_an_error_across_a_ridge_costs_more_than_one_along_it() -> None:
    axis = torch.linspace(-1, 1, 33, dtype=torch.float64)
    ridge = -(axis[:, None] ** 2 / 0.01 + axis[None] ** 2 / 0.2).view(1, 1, 33, 33)  # wide in x
    along, across = (
        star_loss(ridge, torch.tensor([[point]], dtype=torch.float64), star_weight=0) for point in ([0.2, 0], [0, 0.2])
    )
    assert across > 3 * along


def test_half_precision_logits_are_widened() -> None:
    logits, target = random_case(9)
    low = logits.to(torch.bfloat16)
    assert star_loss(low, target).dtype == torch.float32
    torch.testing.assert_close(star_loss(low, target), star_loss(low.float(), target.float()))


# --- moments and masks


def slow_moments(logits: Tensor) -> list[Tensor]:
    """Mean x, mean y, xx, yy, xy over dense grids, differentiated by autograd."""
    p = logits.flatten(2).softmax(-1).view(logits.shape)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=p.dtype) for n in p.shape[2:]), indexing="ij")
    mean_x, mean_y = ((p * axis).sum((2, 3)) for axis in (x, y))
    dx, dy = x - mean_x[..., None, None], y - mean_y[..., None, None]
    v1, v2 = 1 + 1e-5, p.square().sum((2, 3)) + 1e-5
    return [mean_x, mean_y, *((p * a * b).sum((2, 3)) / (v1 - v2 / v1) for a, b in ((dx, dx), (dy, dy), (dx, dy)))]


def all_moments(logits: Tensor) -> list[Tensor]:
    m = spatial_moments(logits)
    return [*m.mean.unbind(-1), m.xx, m.yy, m.xy]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("maps", [1, 3, 300])
def test_moments_and_their_gradients_are_those_of_dense_grids(maps: int, number: int) -> None:
    """Over 300 maps of 64 x 64 more than one block is worked on."""
    size = (64, 64) if maps == 300 else (9, 7)
    logits = torch.randn(1, maps, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(maps))
    results = []
    for moments in (all_moments, slow_moments):
        leaf = logits.clone().requires_grad_()
        value = moments(leaf)[number]
        (value * torch.linspace(1, 2, maps, dtype=torch.float64)).sum().backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_a_masked_nan_target_reaches_neither_value_nor_gradient() -> None:
    logits = torch.randn(1, 2, 5, 5, requires_grad=True)
    target = torch.tensor([[[0.1, 0.2], [math.nan, math.nan]]])
    loss = star_loss(logits, target, mask=torch.tensor([[True, False]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_decode_takes_heatmaps_and_coordinates() -> None:
    points = torch.tensor([[[0.2, -0.4], [0.0, 0.6]]])
    torch.testing.assert_close(decode(blob(points, 33)), points, atol=1e-4, rtol=0)
    assert decode(points) is points
    assert decode(points.to(torch.bfloat16)).dtype == torch.float32


def test_masked_mean_by_hand() -> None:
    value = torch.tensor([[1.0, 2.0], [6.0, math.nan]])
    assert masked_mean(value[:1], None) == 1.5
    assert masked_mean(value, torch.tensor([[1, 1], [1, 0]])) == 3
    assert masked_mean(value, torch.zeros(2, 2)) == 0


# --- the plain distances


def test_smooth_l1_by_hand() -> None:
    error = torch.tensor([0.0, 0.005, -0.005, 0.01, 0.5, -2.0], dtype=torch.float64)
    expected = torch.tensor([0, 0.00125, 0.00125, 0.005, 0.495, 1.995], dtype=torch.float64)
    torch.testing.assert_close(smooth_l1(error), expected)
    torch.testing.assert_close(smooth_l1(error, 1.0)[4:], torch.tensor([0.125, 1.5], dtype=torch.float64))


def test_wing_by_hand() -> None:
    error = torch.tensor([0.0, 0.016, -0.016, 0.048, 1.0, -1.0], dtype=torch.float64)
    far = 1 - (0.08 - 0.08 * math.log(6))
    expected = [0, 0.08 * math.log(2), 0.08 * math.log(2), 0.08 * math.log(4), far, far]
    torch.testing.assert_close(wing(error), torch.tensor(expected, dtype=torch.float64))


def test_soft_wing_by_hand() -> None:
    error = torch.tensor([0.0, 0.01, -0.01, 0.036, 1.0], dtype=torch.float64)
    offset = 0.016 - 0.16 * math.log(5)
    expected = [0, 0.01, 0.01, 0.16 * math.log(10) + offset, 0.16 * math.log(251) + offset]
    torch.testing.assert_close(soft_wing(error), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("loss", "joint"), [(smooth_l1, 0.01), (wing, 0.08), (soft_wing, 0.016)])
def test_the_pieces_join_and_rise(loss, joint: float) -> None:
    sides = loss(torch.tensor([joint - 1e-9, joint, joint + 1e-9], dtype=torch.float64))
    assert (sides.max() - sides.min()).item() < 1e-7
    steps = loss(torch.linspace(0, 2, 4001, dtype=torch.float64)).diff()
    assert (steps > 0).all()
    error = torch.linspace(-2, 2, 101, dtype=torch.float64)
    torch.testing.assert_close(loss(error), loss(-error))


# --- what every loss keeps

CASES = [("star", d, "heatmaps") for d in DISTANCES]
CASES += [
    (name, "smooth_l1", out) for name in ("smooth_l1", "wing", "soft_wing") for out in ("heatmaps", "coordinates")
]
losses = pytest.mark.parametrize(("name", "distance", "kind"), CASES)
TARGET = torch.tensor([[[0.2, -0.3], [-0.6, 0.4], [0.0, 0.0]], [[0.5, 0.5], [-0.1, 0.7], [0.3, -0.7]]])


def make(name: str, distance: str) -> LandmarkLoss:
    return LandmarkLoss(LossConfig(name=name, distance=distance) if name == "star" else LossConfig(name=name))


def output_at(points: Tensor, kind: str) -> Tensor:
    return (blob(points) if kind == "heatmaps" else points.clone()).requires_grad_()


@losses
def test_a_perfect_output_costs_little_and_a_worse_one_more(name: str, distance: str, kind: str) -> None:
    loss, mask = make(name, distance), torch.ones(2, 3, dtype=torch.bool)
    costs = [loss(output_at(TARGET + shift, kind), TARGET, mask).item() for shift in (0, 0.02, 0.1, 0.3, -0.3)]
    assert costs[0] < 0.1 * costs[1] or costs[0] < 0.1
    assert costs[0] < costs[1] < costs[2] < costs[3]
    assert costs[4] > costs[2]


@losses
def test_a_step_against_the_gradient_costs_less(name: str, distance: str, kind: str) -> None:
    loss, mask = make(name, distance), torch.ones(2, 3, dtype=torch.bool)
    output = output_at(TARGET + 0.2, kind)
    before = loss(output, TARGET, mask)
    before.backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()
    assert loss(output.detach() - 0.01 * output.grad / output.grad.abs().max(), TARGET, mask) < before


@losses
def test_a_missing_landmark_counts_for_nothing(name: str, distance: str, kind: str) -> None:
    loss, mask = make(name, distance), torch.tensor([[True, True, False], [True, False, True]])
    output = output_at(TARGET + 0.1, kind)
    costs, gradients = [], []
    for value in (0.0, 1e30, math.nan, math.inf):
        target = torch.where(mask[..., None], TARGET, value)
        output.grad = None
        cost = loss(output, target, mask)
        cost.backward()
        assert output.grad is not None
        costs.append(cost.item())
        gradients.append(output.grad.clone())
    assert len(set(costs)) == 1
    for gradient in gradients:
        torch.testing.assert_close(gradient, gradients[0], rtol=0, atol=0)
        assert not gradient[~mask].any()
        assert gradient[mask].flatten(1).abs().amax(1).min() > 0
    singles = [
        loss(
            output_at(TARGET + 0.1, kind)[b : b + 1, k : k + 1],
            TARGET[b : b + 1, k : k + 1],
            mask[b : b + 1, k : k + 1],
        )
        for b, k in mask.nonzero().tolist()
    ]
    assert costs[0] == pytest.approx(torch.stack(singles).mean().item(), rel=1e-5)


@losses
def test_with_every_landmark_missing_the_loss_is_zero(name: str, distance: str, kind: str) -> None:
    output = output_at(TARGET, kind)
    cost = make(name, distance)(output, torch.full_like(TARGET, math.nan), torch.zeros(2, 3, dtype=torch.bool))
    cost.backward()
    assert cost.item() == 0
    assert output.grad is not None
    assert not output.grad.any()


@losses
def test_an_output_that_is_no_number_is_not_hidden(name: str, distance: str, kind: str) -> None:
    output = output_at(TARGET, kind).detach().clone()
    output[0, 0] = math.nan
    assert make(name, distance)(output, TARGET, torch.ones(2, 3, dtype=torch.bool)).isnan()


@losses
def test_low_precision_outputs_give_a_float32_loss(name: str, distance: str, kind: str) -> None:
    cost = make(name, distance)(output_at(TARGET, kind).to(torch.bfloat16), TARGET, torch.ones(2, 3, dtype=torch.bool))
    assert cost.dtype == torch.float32


def test_the_losses_differ() -> None:
    mask = torch.ones(2, 3, dtype=torch.bool)
    costs = [make(name, distance)(blob(TARGET + 0.2), TARGET, mask).item() for name, distance, _ in CASES[:5]]
    costs += [make(name, "smooth_l1")(blob(TARGET + 0.2), TARGET, mask).item() for name in ("wing", "soft_wing")]
    assert len({round(cost, 6) for cost in costs}) == len(costs)

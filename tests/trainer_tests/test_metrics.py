"""Metrics: numbers computed by hand, the published code's numbers, missing landmarks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from trainer import metrics
from trainer.landmarks import LAYOUTS, Layout, Norm
from trainer.metric_names import rate_label, rate_names, rates_in

WFLW = LAYOUTS["wflw98"]
REFERENCE = np.load(Path(__file__).parent / "reference" / "metrics_reference.npz")
FOUR = Layout("four", 4, ((0, 1),), (Norm("inter_ocular", "", (0,), (1,)),), 0.10, {"eyes": (0, 2), "mouth": (2, 4)})
TARGET = np.array([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]]])  # eyes 10 apart
ERRORS = np.array([[[3.0, 4.0], [0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]])  # 5, 0, 1, 2 pixels


# --- the published numbers


def test_nme_of_the_published_code() -> None:
    found = metrics.nme(REFERENCE["pred"], REFERENCE["gt"], WFLW)
    np.testing.assert_allclose(found, REFERENCE["nme"], rtol=1e-6, atol=1e-6)


def test_failure_rate_of_the_published_code() -> None:
    found = metrics.failure_rate(metrics.nme(REFERENCE["pred"], REFERENCE["gt"], WFLW), 0.10)
    assert found == pytest.approx(7 / 60, abs=1e-15)
    assert found == pytest.approx(float(REFERENCE["fr10"]), abs=5e-5)


def test_auc_of_the_published_code() -> None:
    found = metrics.auc(metrics.nme(REFERENCE["pred"], REFERENCE["gt"], WFLW), 0.10)
    assert found == pytest.approx(float(REFERENCE["auc10"]), abs=2e-4)


# --- by hand


def test_nme_by_hand() -> None:
    pred = TARGET + ERRORS
    np.testing.assert_allclose(metrics.distances(pred, TARGET), [[5, 0, 1, 2]])
    np.testing.assert_allclose(metrics.norms(TARGET, FOUR.norm()), [10])
    np.testing.assert_allclose(metrics.nme(pred, TARGET, FOUR), [0.2])
    np.testing.assert_allclose(metrics.nme(pred, TARGET, FOUR, norm=np.array([4.0])), [0.5])
    assert metrics.nme(TARGET, TARGET, FOUR).tolist() == [0]


def test_nme_does_not_depend_on_unit_place_and_turn() -> None:
    pred = TARGET + ERRORS
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(metrics.nme(7 * pred @ turn + 3, 7 * TARGET @ turn + 3, FOUR), [0.2])


def test_missing_landmarks_do_not_count() -> None:
    pred, target = TARGET + ERRORS, TARGET.copy()
    target[0, 3] = np.nan
    visible = np.array([[True, True, True, False]])
    np.testing.assert_allclose(metrics.nme(pred, target, FOUR, visible=visible), [0.2])  # (5 + 0 + 1) / 3 / 10
    pred[0, 3] = np.nan
    np.testing.assert_allclose(metrics.nme(pred, target, FOUR, visible=visible), [0.2])


def test_a_face_without_landmarks_is_nan_and_only_that_face() -> None:
    pred = np.concatenate([TARGET + ERRORS, TARGET])
    visible = np.array([[True] * 4, [False] * 4])
    found = metrics.nme(pred, np.concatenate([TARGET, TARGET]), FOUR, visible=visible)
    assert found[0] == pytest.approx(0.2)
    assert np.isnan(found[1])


def test_a_prediction_that_is_no_number_gives_nan() -> None:
    pred = TARGET.copy()
    pred[0, 0, 0] = np.nan
    assert np.isnan(metrics.nme(pred, TARGET, FOUR)).all()


def test_a_layout_normalised_by_the_box_asks_for_it() -> None:
    points = np.zeros((2, 19, 2))
    with pytest.raises(ValueError, match="landmarks do not tell the box: pass norm"):
        metrics.nme(points, points, LAYOUTS["aflw19"])
    np.testing.assert_allclose(
        metrics.nme(points + [3, 4], points, LAYOUTS["aflw19"], norm=np.array([50, 100])), [0.1, 0.05]
    )


@pytest.mark.parametrize(
    ("nme", "rate", "area"),
    [
        ([0.0], 0, 1),
        ([0.05], 0, 0.5),
        ([0.1], 0, 0),  # at the threshold is no failure
        ([0.1000001], 1, 0),
        ([0.05, 0.2], 0.5, 0.25),
        ([0.02, 0.04, 0.06, 0.5], 0.25, (0.8 + 0.6 + 0.4) / 4),
        ([0.05, math.nan], 0.5, 0.25),
        ([0.05, math.inf], 0.5, 0.25),
        ([math.nan], 1, 0),
    ],
)
def test_failure_rate_and_auc_by_hand(nme: list[float], rate: float, area: float) -> None:
    values = np.array(nme)
    assert metrics.failure_rate(values) == pytest.approx(rate)
    assert metrics.auc(values) == pytest.approx(area)


def test_another_threshold() -> None:
    values = np.array([0.01, 0.05])
    assert metrics.failure_rate(values, 0.02) == 0.5
    assert metrics.auc(values, 0.02) == pytest.approx(0.25)


def test_auc_is_the_area_under_the_ced() -> None:
    values = np.abs(np.random.default_rng(0).normal(0.06, 0.03, 500))
    thresholds, share = metrics.ced(values, 0.10, 20001)
    assert metrics.auc(values, 0.10) == pytest.approx(np.trapezoid(share, thresholds) / 0.10, abs=1e-4)


def test_ced_rises_and_ends_at_what_does_not_fail() -> None:
    values = np.array([0.0, 0.03, 0.03, 0.09, 0.2, math.nan, math.inf])
    thresholds, share = metrics.ced(values)
    assert len(thresholds) == len(share) == 200
    assert (thresholds[0], thresholds[-1]) == (0, 0.10)
    assert (np.diff(thresholds) > 0).all()
    assert (np.diff(share) >= 0).all()
    assert share[0] == pytest.approx(1 / 7)
    assert share[-1] == pytest.approx(4 / 7)
    assert share[-1] == pytest.approx(1 - metrics.failure_rate(values))
    np.testing.assert_allclose(metrics.ced(values, 0.06, 3)[1], [1 / 7, 3 / 7, 3 / 7])


def test_parts_by_hand() -> None:
    pred, norm = TARGET + ERRORS, np.array([10.0])
    found = metrics.part_nmes(pred, TARGET, FOUR, norm=norm)
    assert found == pytest.approx({"eyes": 0.25, "mouth": 0.15})
    visible = np.array([[False, True, False, False]])
    found = metrics.part_nmes(pred, TARGET, FOUR, norm=norm, visible=visible)
    assert found["eyes"] == 0
    assert math.isnan(found["mouth"])


def test_a_part_is_averaged_over_the_faces_that_show_it() -> None:
    pred, target = np.concatenate([TARGET + ERRORS, TARGET]), np.concatenate([TARGET, TARGET])
    visible = np.array([[True] * 4, [True, True, False, False]])
    found = metrics.part_nmes(pred, target, FOUR, norm=np.array([10.0, 10.0]), visible=visible)
    assert found == pytest.approx({"eyes": 0.125, "mouth": 0.15})


def test_parts_weighted_by_their_landmarks_make_the_whole() -> None:
    pred, target = REFERENCE["pred"].astype(np.float64), REFERENCE["gt"].astype(np.float64)
    norm = metrics.norms(target, WFLW.norm())
    parts = metrics.part_nmes(pred, target, WFLW, norm=norm)
    whole = sum(parts[name] * (stop - start) for name, (start, stop) in WFLW.parts.items()) / 98
    assert whole == pytest.approx(metrics.nme(pred, target, WFLW).mean())


def test_mean_and_summary_leave_out_what_was_not_measured() -> None:
    assert metrics.mean(np.array([0.02, math.nan, 0.04])) == pytest.approx(0.03)
    assert math.isnan(metrics.mean(np.array([math.nan])))
    found = metrics.summary(np.array([0.02, math.nan, 0.18, 0.1]))
    assert found == pytest.approx({"nme": 0.1, "fr10": 0.5, "auc10": 0.2})


def test_a_threshold_stands_in_the_names_of_its_rates() -> None:
    found = metrics.summary(np.array([0.02, 0.09, 0.04]), 0.08)
    assert found == pytest.approx({"nme": 0.05, "fr8": 1 / 3, "auc8": 5 / 12})
    assert [rate_names(threshold)[0] for threshold in (0.1, 0.08, 0.07, 0.075, 1)] == [
        "fr10",
        "fr8",
        "fr7",
        "fr7.5",
        "fr100",
    ]
    assert [rate_label(name) for name in ("fr10", "auc8", "fr7.5")] == ["FR@0.10", "AUC@0.08", "FR@0.075"]
    assert rates_in(["nme", "faces", "fr8", "auc8"]) == ("fr8", "auc8")


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_norms_of_every_layout_by_hand(layout: Layout) -> None:
    """Ends of a norm at (0, 0) and (3, 4) in the mean, all else anywhere."""
    for norm in layout.norms:
        target = np.random.default_rng(1).normal(size=(2, layout.count, 2))
        for side, at in ((norm.right, (0, 0)), (norm.left, (3, 4))):
            wobble = target[:, list(side)]
            target[:, list(side)] = wobble - wobble.mean(axis=1, keepdims=True) + at if side else wobble
        if norm.right:
            np.testing.assert_allclose(metrics.norms(target, norm), [5, 5])
            target[1, norm.left[0]] = np.nan
            assert np.isnan(metrics.norms(target, norm)).tolist() == [False, True]
        else:
            with pytest.raises(ValueError, match="landmarks do not tell the box"):
                metrics.norms(target, norm)


def test_an_infinite_error_is_beyond_every_threshold() -> None:
    with np.errstate(over="raise"):
        assert metrics.auc(np.array([0.05, np.inf])) == pytest.approx(0.25)
        assert metrics.ced(np.array([0.05, np.inf]))[1][-1] == 0.5


# --- the bootstrap


def test_bootstrap_of_equal_errors_is_exact() -> None:
    means = metrics.bootstrap_means(np.full((3, 7), 0.25))
    assert means.shape == (2000,)
    assert set(means) == {0.25}
    assert metrics.interval(means) == (0.25, 0.25)


def test_bootstrap_draws_faces_as_often_as_the_binomial_says() -> None:
    """Of two faces, both draws hit the first in a quarter of the samples, the second in another."""
    means = metrics.bootstrap_means(np.array([[0.0, 1.0]]), draws=4000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_bootstrap_draws_runs_too() -> None:
    means = metrics.bootstrap_means(np.array([[0.0] * 50, [1.0] * 50]), draws=4000)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_bootstrap_spreads_like_the_mean() -> None:
    errors = np.random.default_rng(0).normal(0.05, 0.02, (1, 400))
    means = metrics.bootstrap_means(errors)
    assert means.mean() == pytest.approx(errors.mean(), abs=1e-4)
    assert means.std() == pytest.approx(errors.std() / 20, rel=0.08)


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(150):
        low, high = metrics.interval(metrics.bootstrap_means(rng.exponential(0.05, (1, 100)), draws=150))
        hits += low <= 0.05 <= high
    assert 0.87 <= hits / 150 <= 0.99


def test_bootstrap_is_the_same_every_time_and_another_with_another_seed() -> None:
    errors = np.random.default_rng(0).random((2, 9))
    first = metrics.bootstrap_means(errors, draws=50)
    np.random.seed(3)
    np.testing.assert_array_equal(metrics.bootstrap_means(errors, draws=50), first)
    assert (metrics.bootstrap_means(errors, draws=50, seed=1) != first).any()


def test_bootstrap_of_two_configs_draws_pairs() -> None:
    errors = np.random.default_rng(0).random((3, 20))
    difference = metrics.bootstrap_means(errors + 0.01) - metrics.bootstrap_means(errors)
    np.testing.assert_allclose(difference, 0.01, atol=1e-12)
    scaled = metrics.bootstrap_means(2 * errors) - metrics.bootstrap_means(errors)
    np.testing.assert_allclose(scaled, metrics.bootstrap_means(errors), atol=1e-12)


def test_bootstrap_leaves_out_faces_that_were_not_measured() -> None:
    errors = np.array([[0.02, math.nan, 0.02], [0.02, math.nan, 0.02]])
    means = metrics.bootstrap_means(errors, draws=200)
    known = means[~np.isnan(means)]
    np.testing.assert_allclose(known, 0.02)
    assert np.isnan(means).sum() < 30  # all three draws hit the face without a number: 1 in 27


def test_interval_by_hand() -> None:
    samples = np.arange(101.0)
    assert metrics.interval(samples) == pytest.approx((2.5, 97.5))
    assert metrics.interval(samples, 0.5) == pytest.approx((25, 75))


def test_interval_of_samples_that_hold_a_nan() -> None:
    """A sample in which only faces without a number were drawn must not take the whole interval away."""
    low, high = metrics.interval(np.append(np.arange(101.0), np.nan))
    assert (low, high) == pytest.approx((2.5, 97.5))

"""The Gaussian process against the formulas, its gradient against differences, and what its parts are for."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process.kernels import Matern

from sweep.search.sampling.gaussian_process import GaussianProcess


def made(trials: int, seed: int = 0, owners=(0, 1, 2), noise: float = 0.02):
    """A process of a smooth function of the first coordinate, seen at two rungs, the first of which misleads."""
    rng = np.random.default_rng(seed)
    points = rng.random((trials, len(owners)))
    whose = np.concatenate([np.arange(trials), np.arange(0, trials, 2)])
    early = np.concatenate([np.ones(trials), np.zeros(len(whose) - trials)])
    wrong = 0.5 * np.cos(4 * points[:, 1])
    values = np.sin(5 * points[whose, 0]) + early * wrong[whose] + rng.normal(size=len(whose)) * noise
    return GaussianProcess(points, np.array(owners), whose, early, values), points, whose, early, values


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 1)])
def test_what_is_predicted_is_what_the_formulas_say(owners):
    """Rasmussen and Williams 2006, equations 2.25 and 2.26, with scikit-learn's Matern kernel."""
    ours, points, whose, early, values = made(30, owners=owners)
    lengths, (function, sooner, trial, late, noise) = ours._parts(ours.hyper)
    matern = Matern(lengths[list(owners)], nu=2.5)
    both = np.outer(early, early)
    covariance = matern(points)[np.ix_(whose, whose)] * (function + sooner * both)
    covariance += (whose[:, None] == whose) * (trial + late * both) + noise * np.eye(len(values))
    asked = np.random.default_rng(1).random((20, 3))
    cross = function * matern(asked, points)[:, whose]
    mean = values.mean() + cross @ np.linalg.solve(covariance, values - values.mean())
    variance = function - (cross * np.linalg.solve(covariance, cross.T).T).sum(1)
    np.testing.assert_allclose(ours.predict(asked)[0], mean, atol=1e-6)
    np.testing.assert_allclose(ours.predict(asked)[1], np.sqrt(variance), atol=1e-6)


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 1)])
def test_the_gradient_is_that_of_differences(owners):
    process, *_ = made(25, owners=owners)
    at = process._centre + np.linspace(-0.5, 0.5, len(process._centre))
    differences = approx_fprime(at, lambda hyper: process._loss(hyper)[0], 1e-6)
    np.testing.assert_allclose(process._loss(at)[1], differences, rtol=1e-3, atol=1e-3)


def test_what_an_early_rung_shows_wrongly_is_told_apart():
    process, *_ = made(80)
    asked = np.random.default_rng(1).random((100, 3))
    truth = np.sin(5 * asked[:, 0])
    assert np.corrcoef(process.predict(asked)[0], truth)[0, 1] > 0.98
    lengths, _ = process._parts(process.hyper)
    assert lengths[2] > 2 * lengths[:2].max()  # the third dimension changes nothing


def test_trials_that_are_added_change_no_mean_and_leave_less_unknown():
    process, *_ = made(30)
    asked = np.array([[0.95, 0.95, 0.05], [0.5, 0.1, 0.9]])
    mean, deviation = process.predict(asked)
    process.add(asked[:1])
    np.testing.assert_allclose(process.predict(asked)[0], mean, atol=1e-9)
    assert process.predict(asked)[1][0] < deviation[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_trials_and_equal_values_are_enough(count):
    points = np.full((count, 2), 0.5)
    process = GaussianProcess(points, np.array([0, 1]), np.arange(count), np.ones(count), np.zeros(count))
    mean, deviation = process.predict(np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert np.isfinite([*mean, *deviation]).all()
    assert deviation[1] > deviation[0]

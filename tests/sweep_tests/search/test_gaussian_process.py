"""The Gaussian process against scikit-learn's, its gradient against differences, and what its priors are for."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from sweep.search.sampling.gaussian_process import GaussianProcess


def made(count: int, seed: int = 0, owners=(0, 1, 2)) -> tuple[GaussianProcess, np.ndarray, np.ndarray]:
    """A process of a smooth function of the first coordinate, and its points and values."""
    rng = np.random.default_rng(seed)
    points, progress = rng.random((count, len(owners))), rng.integers(0, 2, count).astype(float)
    values = np.sin(5 * points[:, 0]) + rng.normal(size=count) * np.where(progress == 1, 0.02, 0.3)
    return GaussianProcess(points, np.array(owners), values, progress), points, values


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 1)])
def test_what_is_predicted_is_what_scikit_learn_predicts(owners):
    ours, points, values = made(40, owners=owners)
    lengths = np.exp(ours._hyper[:-3])[list(owners)]
    noise = np.exp(ours._hyper[-2] + ours._hyper[-1] * ours._progress)
    kernel = ConstantKernel(np.exp(ours._hyper[-3])) * Matern(lengths, nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(points, values - values.mean())
    asked = np.random.default_rng(1).random((20, 3))
    mean, deviation = theirs.predict(asked, return_std=True)
    np.testing.assert_allclose(ours.predict(asked)[0], mean + values.mean(), atol=1e-6)
    np.testing.assert_allclose(ours.predict(asked)[1], deviation, atol=1e-6)


@pytest.mark.parametrize("owners", [(0, 1, 2), (0, 1, 1)])
def test_the_gradient_is_that_of_differences(owners):
    process, *_ = made(25, owners=owners)
    at = process._centre + np.linspace(-0.5, 0.5, len(process._centre))
    differences = approx_fprime(at, lambda hyper: process._loss(hyper)[0], 1e-6)
    np.testing.assert_allclose(process._loss(at)[1], differences, rtol=1e-3, atol=1e-3)


def test_hyperparameters_tell_what_matters_and_how_noisy_it_is():
    process, *_ = made(120)
    lengths = np.exp(process._hyper[:-3])
    assert lengths[0] < lengths[1:].min() / 2  # only the first dimension changes anything
    assert np.exp(process._hyper[-2]) == pytest.approx(0.3**2, rel=0.6)
    assert process._hyper[-1] < -2  # the noise of those that came further is much less


def test_points_that_are_added_change_no_mean_and_leave_less_unknown():
    process, *_ = made(30)
    asked = np.array([[0.95, 0.95, 0.05], [0.5, 0.1, 0.9]])
    mean, deviation = process.predict(asked)
    process.add(asked[:1])
    np.testing.assert_allclose(process.predict(asked)[0], mean, atol=1e-9)
    assert process.predict(asked)[1][0] < deviation[0]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_very_few_points_and_equal_values_are_enough(count):
    points = np.full((count, 2), 0.5)
    process = GaussianProcess(points, np.array([0, 1]), np.zeros(count), np.zeros(count))
    mean, deviation = process.predict(np.array([[0.5, 0.5], [0.0, 1.0]]))
    assert np.isfinite([*mean, *deviation]).all()
    assert deviation[1] > deviation[0]

"""Gaussian-process regression with the most probable hyperparameters (Rasmussen and Williams 2006, chapters 2 and 5).

Legend: N points, C coordinates, D dimensions, each of which owns some of the coordinates.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

Array = NDArray[np.float64]
_STEPS = 20  # of the search for hyperparameters
_JITTER = 1e-8  # of the variance, or the Cholesky factor of close points may not exist
_ROOT_5 = math.sqrt(5.0)
_WIDEST = 5.0  # deviations from a prior's median at most
# Priors, normal in the logarithm: median and deviation. The noise falls from epoch to epoch by exp(decay x progress).
_LENGTH, _VARIANCE, _NOISE, _DECAY = (0.35, 0.8), (1.0, 0.5), (0.1, 1.0), (-1.5, 1.0)


class GaussianProcess:
    """A function of the coordinates, known from values with noise: Matern 5/2, a lengthscale a dimension.

    Args:
        coordinates: of the known points, (N, C).
        owners: the dimension of each coordinate, (C,).
        values: that are known there, (N,).
        progress: of each, 0 to 1, (N,): the noise may fall with it.
    """

    def __init__(self, coordinates: Array, owners: NDArray[np.int64], values: Array, progress: Array) -> None:
        self._known, self._owners, self._progress = coordinates, owners, progress
        self._mean = float(values.mean())
        self._values = values - self._mean
        dimensions = int(owners.max()) + 1
        median = [_LENGTH[0] * math.sqrt(dimensions)] * dimensions + [_VARIANCE[0], _NOISE[0]]
        self._centre = np.append(np.log(median), _DECAY[0])
        self._deviation = np.array([_LENGTH[1]] * dimensions + [_VARIANCE[1], _NOISE[1], _DECAY[1]])
        self._squares = np.zeros((dimensions, len(values) ** 2))  # distances along each dimension
        apart = (coordinates[:, None] - coordinates) ** 2
        np.add.at(self._squares, owners, apart.reshape(-1, len(owners)).T)
        self._hyper = self._most_probable()
        self._condition()

    def add(self, coordinates: Array) -> None:
        """Adds points, (M, C), with the values that are predicted there: less is unknown around them from then on."""
        values = self.predict(coordinates)[0] - self._mean
        self._known = np.concatenate([self._known, coordinates])
        self._values = np.concatenate([self._values, values])
        self._progress = np.concatenate([self._progress, np.zeros(len(coordinates))])
        self._condition()

    def predict(self, coordinates: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function, without noise, each (M,)."""
        lengths, variance = np.exp(self._hyper[:-3])[self._owners], math.exp(self._hyper[-3])
        a, b = coordinates / lengths, self._known / lengths
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        kernel = variance * _matern(np.sqrt(np.maximum(squares, 0.0)))[0]
        mean = self._mean + kernel @ self._weights
        rest = variance - (solve_triangular(self._factor, kernel.T, lower=True, check_finite=False) ** 2).sum(0)
        return mean, np.sqrt(np.maximum(rest, 1e-12))

    def _condition(self) -> None:
        """Cholesky factor and weights of what is known."""
        lengths, variance = np.exp(self._hyper[:-3])[self._owners], math.exp(self._hyper[-3])
        scaled = self._known / lengths
        squares = (scaled**2).sum(1)[:, None] + (scaled**2).sum(1) - 2 * scaled @ scaled.T
        kernel = variance * _matern(np.sqrt(np.maximum(squares, 0.0)))[0]
        self._factor = self._cholesky(kernel, self._hyper)
        self._weights = cho_solve((self._factor, True), self._values, check_finite=False)

    def _cholesky(self, kernel: Array, hyper: Array) -> Array:
        noise = np.exp(hyper[-2] + hyper[-1] * self._progress) + _JITTER * math.exp(hyper[-3])
        return cholesky(kernel + np.diag(noise), lower=True, check_finite=False)

    def _most_probable(self) -> Array:
        """Logarithms of D lengthscales, of the variance and of the noise, and the noise's decay: (D + 3,)."""
        low, high = self._centre - _WIDEST * self._deviation, self._centre + _WIDEST * self._deviation
        high[-1] = 0.0
        bounds = list(zip(low, high, strict=True))
        steps = {"maxiter": _STEPS}
        return minimize(self._loss, self._centre, jac=True, method="L-BFGS-B", bounds=bounds, options=steps).x

    def _loss(self, hyper: Array) -> tuple[float, Array]:
        """The negative logarithm of the posterior of hyperparameters, but for a constant, and its gradient."""
        inverse, count = np.exp(-2 * hyper[:-3]), len(self._values)
        matern, slope = _matern(np.sqrt(inverse @ self._squares).reshape(count, count))
        kernel = math.exp(hyper[-3]) * matern
        factor = self._cholesky(kernel, hyper)
        weights = cho_solve((factor, True), self._values, check_finite=False)
        inverted = dpotri(factor, lower=1)[0]
        pull = np.tril(inverted) + np.tril(inverted, -1).T - np.outer(weights, weights)
        noise = np.diag(pull) * np.exp(hyper[-2] + hyper[-1] * self._progress)
        far = (hyper - self._centre) / self._deviation
        value = 0.5 * self._values @ weights + np.log(np.diag(factor)).sum() + 0.5 * far @ far
        gradient = np.empty(len(hyper))
        gradient[:-3] = math.exp(hyper[-3]) * inverse * (self._squares @ (pull * slope).ravel())
        gradient[-3] = (pull * kernel).sum() + _JITTER * math.exp(hyper[-3]) * np.trace(pull)
        gradient[-2:] = noise.sum(), noise @ self._progress
        return float(value), 0.5 * gradient + far / self._deviation


def _matern(distance: Array) -> tuple[Array, Array]:
    """Matern 5/2 at distances in lengthscales, and its derivative by the logarithm of a lengthscale: the second
    array, times the square of the distance along that dimension."""
    scaled = _ROOT_5 * distance
    decay = np.exp(-scaled)
    return (1 + scaled + scaled**2 / 3) * decay, 5 / 3 * (1 + scaled) * decay

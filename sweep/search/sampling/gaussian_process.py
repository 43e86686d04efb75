"""A Gaussian process of the final scores of trials, observed at rungs (Rasmussen and Williams 2006).

An observation is the sum of four terms: the function at the trial's configuration; a second function, the bias of early
rungs; an offset of the trial; noise. The second term and a part of the third vanish towards the last rung.
Hyperparameters that are not given are the maximum a posteriori.

Legend: T trials, C coordinates, D dimensions, each of which owns some of the coordinates; N observations.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

Array = NDArray[np.float64]
_FIT_STEPS = 20  # of L-BFGS-B
_MAX_DEVIATIONS = 5.0  # of a hyperparameter from the median of its prior
_ROOT_5 = math.sqrt(5.0)
# Log-normal priors: median, standard deviation of the logarithm. Of the lengthscales in one dimension; of the variances
# of the function, its bias at early rungs, a trial's offset, that offset at early rungs, and the noise.
_LENGTH = (0.7, 1.0)
_VARIANCES = ((1.0, 0.5), (0.3, 1.0), (0.1, 1.0), (0.1, 1.0), (0.02, 1.0))


class GaussianProcess:
    """A posterior over functions of the coordinates, with a Matern 5/2 kernel and one lengthscale per dimension.

    Args:
        coordinates: of the trials, (T, C).
        owners: the dimension of each coordinate, (C,).
        trials: the trial of each observation, (N,).
        early: 1 for an observation at the first rung, 0 at the last, (N,).
        values: the observations, (N,).
        hyper: logarithms of the lengthscales and of the five variances, (D + 5,); None: fitted.
    """

    def __init__(
        self,
        coordinates: Array,
        owners: NDArray[np.int64],
        trials: NDArray[np.int64],
        early: Array,
        values: Array,
        hyper: Array | None = None,
    ) -> None:
        self._coordinates, self._owners = coordinates, owners
        self._mean = float(values.mean())
        self._values = values - self._mean
        self._observe(trials, early)
        self.hyper = self._fit() if hyper is None else hyper
        self._condition()

    def add(self, coordinates: Array) -> None:
        """Adds trials, (M, C), observed at the first rung as predicted: this lowers the variance there."""
        count = len(self._coordinates)
        lengths, (function, early, *_) = self._parts(self.hyper)
        kernel = self._matern(coordinates, lengths)[:, self._trials] * (function + early * self._early)
        values = kernel @ self._weights
        self._coordinates = np.concatenate([self._coordinates, coordinates])
        self._values = np.concatenate([self._values, values])
        self._observe(
            np.concatenate([self._trials, np.arange(count, count + len(coordinates))]),
            np.concatenate([self._early, np.ones(len(coordinates))]),
        )
        self._condition()

    def _observe(self, trials: NDArray[np.int64], early: Array) -> None:
        """Sets the trial and the earliness of each observation, and of their pairs, (N, N)."""
        self._trials, self._early = trials, early
        self._same = (trials[:, None] == trials).astype(float)
        self._both = np.outer(early, early)

    def predict(self, coordinates: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the function, each (M,)."""
        lengths, (function, *_) = self._parts(self.hyper)
        kernel = function * self._matern(coordinates, lengths)[:, self._trials]
        mean = self._mean + kernel @ self._weights
        rest = function - (solve_triangular(self._factor, kernel.T, lower=True, check_finite=False) ** 2).sum(0)
        return mean, np.sqrt(np.maximum(rest, 1e-12))

    def _parts(self, hyper: Array) -> tuple[Array, Array]:
        """Lengthscales, (D,), and the five variances."""
        return np.exp(hyper[: -len(_VARIANCES)]), np.exp(hyper[-len(_VARIANCES) :])

    def _matern(self, coordinates: Array, lengths: Array) -> Array:
        """Matern 5/2 between points and the trials, (M, T)."""
        a, b = coordinates / lengths[self._owners], self._coordinates / lengths[self._owners]
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return _matern(np.sqrt(np.maximum(squares, 0.0)))[0]

    def _condition(self) -> None:
        """Computes the Cholesky factor of the observations and their weights."""
        lengths, variances = self._parts(self.hyper)
        self._factor = cholesky(self._covariance(self._matern(self._coordinates, lengths), variances), lower=True)
        self._weights = cho_solve((self._factor, True), self._values, check_finite=False)

    def _covariance(self, matern: Array, variances: Array) -> Array:
        """Of the observations, (N, N)."""
        function, early, trial, late, noise = variances
        shared = matern[np.ix_(self._trials, self._trials)] * (function + early * self._both)
        return shared + self._same * (trial + late * self._both) + noise * np.eye(len(self._values))

    def _fit(self) -> Array:
        """The maximum a posteriori hyperparameters."""
        dimensions = int(self._owners.max()) + 1
        priors = [(_LENGTH[0] * math.sqrt(dimensions), _LENGTH[1])] * dimensions + list(_VARIANCES)
        self._centre, self._deviation = np.log([m for m, _ in priors]), np.array([d for _, d in priors])
        self._squares = np.zeros((dimensions, len(self._coordinates) ** 2))  # distances along each dimension
        apart = (self._coordinates[:, None] - self._coordinates) ** 2
        np.add.at(self._squares, self._owners, apart.reshape(-1, len(self._owners)).T)
        low, high = self._centre - _MAX_DEVIATIONS * self._deviation, self._centre + _MAX_DEVIATIONS * self._deviation
        bounds = list(zip(low, high, strict=True))
        steps = {"maxiter": _FIT_STEPS}
        return minimize(self._loss, self._centre, jac=True, method="L-BFGS-B", bounds=bounds, options=steps).x

    def _loss(self, hyper: Array) -> tuple[float, Array]:
        """The negative log posterior of the hyperparameters up to a constant, and its gradient."""
        lengths, variances = self._parts(hyper)
        function, early, trial, late, noise = variances
        inverse, count = lengths**-2, len(self._coordinates)
        matern, slope = _matern(np.sqrt(inverse @ self._squares).reshape(count, count))
        factor = cholesky(self._covariance(matern, variances), lower=True, check_finite=False)
        weights = cho_solve((factor, True), self._values, check_finite=False)
        inverted = dpotri(factor, lower=1)[0]
        pull = np.tril(inverted) + np.tril(inverted, -1).T - np.outer(weights, weights)
        far = (hyper - self._centre) / self._deviation
        value = 0.5 * self._values @ weights + np.log(np.diag(factor)).sum() + 0.5 * far @ far
        rows = np.zeros((count, len(self._values)))  # sums over the observations of each trial
        np.add.at(rows, self._trials, pull * (function + early * self._both))
        by_trial = np.zeros((count, count))
        np.add.at(by_trial, self._trials, rows.T)
        shared, own = pull * matern[np.ix_(self._trials, self._trials)], pull * self._same
        gradient = np.empty(len(hyper))
        gradient[: -len(_VARIANCES)] = inverse * (self._squares @ (by_trial * slope).ravel())
        gradient[-5:-3] = function * shared.sum(), early * (shared * self._both).sum()
        gradient[-3:-1] = trial * own.sum(), late * (own * self._both).sum()
        gradient[-1] = noise * np.trace(pull)
        return float(value), 0.5 * gradient + far / self._deviation


def _matern(distance: Array) -> tuple[Array, Array]:
    """Matern 5/2 of distances in lengthscales, and the factor of its derivative by the logarithm of a lengthscale,
    which is this times the squared distance along that dimension in lengthscales."""
    scaled = _ROOT_5 * distance
    decay = np.exp(-scaled)
    return (1 + scaled + scaled**2 / 3) * decay, 5 / 3 * (1 + scaled) * decay

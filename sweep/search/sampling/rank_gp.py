"""The default sampler: an initial design, then expected improvement of a Gaussian process on the ranks of trials.

NMEs at different rungs are not comparable, but ranks are: all trials are ranked at the first rung; then the trials that
reached the next rung are reordered by their values there, among the ranks they hold, and so on. So every trial has one
rank, however far it was trained, and no curve is extrapolated. The model observes the normal score of the rank that a
trial had at each of its rungs, together with how early the rung is.

Legend: T trials that have reached the first rung, N observations, D dimensions, C coordinates, M candidates.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from sweep.core.trial import Params
from sweep.search.sampling.unit_cube import Points, UnitCube

Array = NDArray[np.float64]
Reached = Sequence[tuple[float, int]]  # the trials that have reached a rung: (value, number), best first

_MAX_MODELLED = 200  # trials in the model
_MAX_FITTED = 100  # trials that the hyperparameters are fitted to, which takes most of the time
_GLOBAL, _CENTRES, _LOCAL = 300, 5, 40  # candidates in the whole space; best trials; candidates around each of those
_MOVE_PROBABILITIES = (0.3, 0.6, 1.0)  # of each dimension of a local candidate, one of these by candidate
_STEP_SIZES = (0.03, 0.1, 0.25)  # standard deviation of a move, as a share of the range
_REDRAW_PROBABILITY = 0.4  # of a choice that is moved
_MIN_DISTANCE = 0.3  # between a candidate and all trials, in eight dimensions
_SAME = 1e-9  # distance below which two points are equal


@dataclass(frozen=True)
class Scores:
    """The ranks of trials as normal scores.

    Attributes:
        numbers: of the trials, best rank first, (T,).
        trials: the trial of each observation, as an index into `numbers`, (N,).
        early: 1 for an observation at the first rung, falling to 0 at the last, (N,).
        values: normal scores of ranks (van der Waerden 1952), lower is better, (N,). The last one of each trial belongs
            to its rank.
    """

    numbers: NDArray[np.int64]
    trials: NDArray[np.int64]
    early: Array
    values: Array

    def thinned(self, count: int) -> Scores:
        """The scores of at most `count` trials: one half the best, the other half spread evenly over the rest."""
        total = len(self.numbers)
        if total <= count:
            return self
        rest = np.linspace(count // 2, total - 1, count - count // 2).round().astype(np.int64)
        kept = np.concatenate([np.arange(count // 2), rest])
        index = np.full(total, -1)
        index[kept] = np.arange(count)
        seen = index[self.trials] >= 0
        return Scores(self.numbers[kept], index[self.trials[seen]], self.early[seen], self.values[seen])

    def by_number(self) -> dict[int, float]:
        """The score of each trial's rank by its number, best first."""
        last = dict(zip(self.trials.tolist(), self.values.tolist(), strict=True))
        return {number: last[index] for index, number in enumerate(self.numbers.tolist())}


def score(rungs: Sequence[Reached]) -> Scores:
    """Ranks the trials that have reached the first rung.

    Args:
        rungs: the trials at each rung, first rung first.
    """
    from scipy.special import ndtri

    numbers = [number for _, number in rungs[0]]
    ranks = {number: rank for rank, number in enumerate(numbers)}
    seen = [(number, 0, rank) for number, rank in ranks.items()]
    for index, reached in enumerate(rungs[1:], start=1):
        further = [number for _, number in reached]
        ranks |= dict(zip(further, sorted(ranks[number] for number in further), strict=True))
        seen += [(number, index, ranks[number]) for number in further]
    observed = np.array([(ranks[number], index, rank) for number, index, rank in seen]).reshape(-1, 3)
    return Scores(
        np.array(sorted(numbers, key=ranks.__getitem__), np.int64),
        observed[:, 0].astype(np.int64),
        1 - observed[:, 1] / max(1, len(rungs) - 1),
        ndtri((observed[:, 2] + 0.5) / max(1, len(numbers))),
    )


def design(cube: UnitCube, index: int, seed: int) -> Params:
    """A value for every dimension: the point of this index in a scrambled Sobol sequence (Owen 1998)."""
    from scipy.stats.qmc import Sobol

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the number of points is no power of 2
        shares = Sobol(len(cube.dimensions), scramble=True, rng=seed).random(index + 1)[index]
    return cube.params(cube.from_uniform(shares[None], conditions=False)[0])


def propose(cube: UnitCube, points: Points, scores: Scores, pending: Sequence[int], seed: int) -> Params | None:
    """The candidate of the largest expected improvement (Jones, Schonlau and Welch 1998).

    Args:
        cube: the search space.
        points: of all trials, by number, (T, D).
        scores: of the trials that have reached the first rung.
        pending: numbers of the trials on their way to it; the model's predictions stand in for their scores.
        seed: of the candidates.

    Returns:
        None if every candidate was tried before.
    """
    with _blas().limit(limits=1, user_api="blas"):  # more threads would only wait for cores that trials use
        return _propose(cube, points, scores, pending, np.random.default_rng(seed))


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _propose(
    cube: UnitCube, points: Points, scores: Scores, pending: Sequence[int], rng: np.random.Generator
) -> Params | None:
    from sweep.search.sampling.gaussian_process import GaussianProcess  # slow to import

    def fitted(known: Scores, hyper: Array | None = None) -> GaussianProcess:
        where = coordinates[known.numbers]
        return GaussianProcess(where, cube.owners, known.trials, known.early, known.values, hyper)

    coordinates, known = cube.coordinates(points), scores.thinned(_MAX_MODELLED)
    model = fitted(scores.thinned(_MAX_FITTED))
    if len(known.numbers) > _MAX_FITTED:
        model = fitted(known, model.hyper)
    if pending:
        model.add(coordinates[list(pending)])
    seen = np.concatenate([known.numbers, np.array(pending, np.int64)])
    expected = model.predict(coordinates[seen])[0]
    best = seen[np.argsort(expected, kind="stable")[:_CENTRES]]
    candidates = _new(cube, _candidates(cube, points[best], rng), coordinates)
    if not len(candidates):
        return None
    gains = _expected_improvement(*model.predict(cube.coordinates(candidates)), float(expected.min()))
    return cube.params(candidates[int(gains.argmax())])


def _expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    from scipy.special import ndtr

    z = (best - mean) / deviation
    return deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))


def _candidates(cube: UnitCube, centres: Points, rng: np.random.Generator) -> Points:
    """Points in the whole space and around the centres, (M, D)."""
    everywhere = cube.from_uniform(rng.random((_GLOBAL, len(cube.dimensions))))
    around = np.repeat(centres, _LOCAL, axis=0)
    shape = around.shape
    elsewhere = cube.from_uniform(rng.random(shape), conditions=False)
    moved = rng.random(shape) < rng.choice(_MOVE_PROBABILITIES, (shape[0], 1))
    one = np.arange(shape[1]) == rng.integers(shape[1], size=(shape[0], 1))
    moved |= one & ~moved.any(axis=1, keepdims=True)
    steps = rng.normal(size=shape) * rng.choice(_STEP_SIZES, (shape[0], 1))
    redrawn = rng.random(shape) < _REDRAW_PROBABILITY
    start = np.where(np.isnan(around), elsewhere, around)  # a setting that the centre lacks is drawn
    numbers = np.where(moved, start + steps, start)
    choices = np.where(moved & redrawn, elsewhere, start)
    return np.concatenate([everywhere, cube.snap(np.where(cube.choices, choices, numbers))])


def _new(cube: UnitCube, candidates: Points, tried: Array) -> Points:
    """The candidates at a distance from all trials or, if there are none, those that differ from all trials.

    The distance is at most the radius at which balls around all trials have the volume of the cube.
    """
    from scipy.spatial.distance import cdist

    nearest, dimensions = cdist(cube.coordinates(candidates), tried).min(axis=1), len(cube.dimensions)
    ball = math.pi ** (dimensions / 2) / math.gamma(dimensions / 2 + 1)  # of radius 1
    filling = (len(tried) * ball) ** (-1 / dimensions)
    far = nearest > min(_MIN_DISTANCE * math.sqrt(dimensions / 8), filling)
    return candidates[far if far.any() else nearest > _SAME]

"""The default sampler: a first design, then expected improvement by a Gaussian process on the ranks of trials.

Values at different rungs say little about each other, so ranks are compared: a trial's rank is that at the first rung,
and those that came to a further one are sorted anew among themselves, over the ranks that they have. So all trials can
be compared, however far they came, and no curve is extrapolated. The model sees the normal score of each rank that a
trial has had, and how early it was.

Legend: T trials that have come to the first rung, N observations, D dimensions, C coordinates, M candidates.
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
Arrivals = Sequence[tuple[float, int]]  # who has come to a rung: value and number, the best first

_MODELLED = 200  # trials that the model is made of at most
_FITTED = 100  # of which its hyperparameters are found, which takes most of the time
_ANYWHERE, _CENTRES, _AROUND = 300, 5, 40  # candidates: in the whole space; around each of so many best ones, so many
_MOVED = (0.3, 0.6, 1.0)  # share of the dimensions in which a candidate is moved away from a good trial
_STEPS = (0.03, 0.1, 0.25)  # how far, as a share of the range
_REDRAWN = 0.4  # how probably a choice that is moved changes
_APART = 0.3  # distance that candidates keep from all trials, in eight dimensions, while there is room for it
_SAME = 1e-9  # distance of what is the same


@dataclass(frozen=True)
class Scores:
    """What ranks say of trials.

    Attributes:
        numbers: of the trials, by rank, the best first, (T,).
        trials: whose each observation is, as an index of `numbers`, (N,).
        early: how far from the last rung it was made: 1 at the first, 0 at the last, (N,).
        values: normal scores of ranks (van der Waerden 1952), less is better, (N,). Of each trial the last one, at its
            furthest rung, is that of its rank.
    """

    numbers: NDArray[np.int64]
    trials: NDArray[np.int64]
    early: Array
    values: Array

    def thinned(self, count: int) -> Scores:
        """What is said of at most so many trials: half of them the best, the others evenly from the rest."""
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
        """The score of each trial at its furthest rung, the best first."""
        last = dict(zip(self.trials.tolist(), self.values.tolist(), strict=True))
        return {number: last[index] for index, number in enumerate(self.numbers.tolist())}


def score(rungs: Sequence[Arrivals]) -> Scores:
    """Ranks the trials that have come to the first rung.

    Args:
        rungs: who has come to each rung, from the first to the last.
    """
    from scipy.special import ndtri

    numbers = [number for _, number in rungs[0]]
    ranks = {number: rank for rank, number in enumerate(numbers)}
    seen = [(number, 0, rank) for number, rank in ranks.items()]
    for index, arrivals in enumerate(rungs[1:], start=1):
        came = [number for _, number in arrivals]
        ranks |= dict(zip(came, sorted(ranks[number] for number in came), strict=True))
        seen += [(number, index, ranks[number]) for number in came]
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
        warnings.simplefilter("ignore", UserWarning)  # a number of points that is no power of 2
        shares = Sobol(len(cube.dimensions), scramble=True, rng=seed).random(index + 1)[index]
    return cube.params(cube.spread(shares[None], conditions=False)[0])


def propose(cube: UnitCube, points: Points, scores: Scores, waiting: Sequence[int], seed: int) -> Params | None:
    """The candidate of the largest expected improvement (Jones, Schonlau and Welch 1998).

    Args:
        cube: the search space.
        points: of all trials, by number, (T, D).
        scores: of those that have come to the first rung.
        waiting: those that are still on their way there: expected to be as good as the model says.
        seed: of the candidates.

    Returns:
        None where every candidate was tried before.
    """
    with _blas().limit(limits=1, user_api="blas"):  # its threads would wait for each other while trials have the cores
        return _propose(cube, points, scores, waiting, np.random.default_rng(seed))


@functools.cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def _propose(
    cube: UnitCube, points: Points, scores: Scores, waiting: Sequence[int], rng: np.random.Generator
) -> Params | None:
    from sweep.search.sampling.gaussian_process import GaussianProcess  # with parts of scipy that take long to import

    def fitted(known: Scores, hyper: Array | None = None) -> GaussianProcess:
        where = coordinates[known.numbers]
        return GaussianProcess(where, cube.owners, known.trials, known.early, known.values, hyper)

    coordinates, known = cube.coordinates(points), scores.thinned(_MODELLED)
    model = fitted(scores.thinned(_FITTED))
    if len(known.numbers) > _FITTED:
        model = fitted(known, model.hyper)
    if waiting:
        model.add(coordinates[list(waiting)])
    seen = np.concatenate([known.numbers, np.array(waiting, np.int64)])
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
    """Points anywhere, and points around the centres: (M, D)."""
    anywhere = cube.spread(rng.random((_ANYWHERE, len(cube.dimensions))))
    around = np.repeat(centres, _AROUND, axis=0)
    shape = around.shape
    elsewhere = cube.spread(rng.random(shape), conditions=False)
    moved = rng.random(shape) < rng.choice(_MOVED, (shape[0], 1))
    one = np.arange(shape[1]) == rng.integers(shape[1], size=(shape[0], 1))
    moved |= one & ~moved.any(axis=1, keepdims=True)
    steps = rng.normal(size=shape) * rng.choice(_STEPS, (shape[0], 1))
    redrawn = rng.random(shape) < _REDRAWN
    start = np.where(np.isnan(around), elsewhere, around)  # what was not searched there is drawn, should it be now
    numbers = np.where(moved, start + steps, start)
    choices = np.where(moved & redrawn, elsewhere, start)
    return np.concatenate([anywhere, cube.snapped(np.where(cube.choices, choices, numbers))])


def _new(cube: UnitCube, candidates: Points, tried: Array) -> Points:
    """Those that keep their distance from all trials; where none does, those that are the same as none.

    The distance shrinks from where balls of that radius around all trials would fill the space.
    """
    from scipy.spatial.distance import cdist

    nearest, dimensions = cdist(cube.coordinates(candidates), tried).min(axis=1), len(cube.dimensions)
    ball = math.pi ** (dimensions / 2) / math.gamma(dimensions / 2 + 1)  # of radius 1
    filling = (len(tried) * ball) ** (-1 / dimensions)
    far = nearest > min(_APART * math.sqrt(dimensions / 8), filling)
    return candidates[far if far.any() else nearest > _SAME]

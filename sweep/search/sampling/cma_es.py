"""CMA-ES on the ranks of trials (Hansen 2016), by the package that is behind Optuna's sampler of that name.

Its state is not kept: each suggestion makes it anew from the trials, which are told in the order of their numbers, a
whole generation at a time. So it is a function of them, though their ranks change while they go on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sweep.core.trial import Params
from sweep.search.sampling.unit_cube import Points, UnitCube

_FEWEST = 2  # ranges that have a covariance
_WIDTH = 1 / 6  # standard deviation of the first generation, as a share of the range


def propose(cube: UnitCube, points: Points, scores: Mapping[int, float], seed: int) -> Params | None:
    """A member of the next generation; choices, which it knows nothing of, are drawn at random.

    Args:
        cube: the search space.
        points: of all trials, by number, (T, D).
        scores: by number, of those that have come to the first rung; less is better.
        seed: of what is drawn.

    Returns:
        None where the space has fewer than two ranges.
    """
    from cmaes import CMA

    ranges = np.flatnonzero(~cube.choices)
    if len(ranges) < _FEWEST:
        return None
    optimizer = CMA(np.full(len(ranges), 0.5), _WIDTH, bounds=np.tile([0.0, 1.0], (len(ranges), 1)), seed=seed)
    told = [(np.nan_to_num(points[number, ranges], nan=0.5), scores[number]) for number in sorted(scores)]
    size = optimizer.population_size
    for end in range(size, len(told) + 1, size):
        optimizer.tell(told[end - size : end])
    point = cube.spread(np.random.default_rng(seed).random((1, len(cube.dimensions))), conditions=False)
    point[0, ranges] = optimizer.ask()
    return cube.params(cube.snapped(point)[0])

"""CMA-ES on the ranks of trials (Hansen 2016), with the package that Optuna's sampler of that name uses.

No state is kept: for each suggestion the optimizer is rebuilt from the trials, told by number, one whole generation at
a time. So a suggestion is a function of the trials, whose ranks change while they are trained.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sweep.core.trial import Params
from sweep.search.sampling.unit_cube import Points, UnitCube

_MIN_RANGES = 2  # for a covariance
_SIGMA = 1 / 6  # standard deviation of the first generation, as a share of the range


def propose(cube: UnitCube, points: Points, scores: Mapping[int, float], seed: int) -> Params | None:
    """A member of the next generation; choices, which CMA-ES does not handle, are drawn at random.

    Args:
        cube: the search space.
        points: of all trials, by number, (T, D).
        scores: by number, of the trials that have reached the first rung; lower is better.
        seed: of the draws.

    Returns:
        None if the space has fewer than two ranges.
    """
    from cmaes import CMA

    ranges = np.flatnonzero(~cube.choices)
    if len(ranges) < _MIN_RANGES:
        return None
    optimizer = CMA(np.full(len(ranges), 0.5), _SIGMA, bounds=np.tile([0.0, 1.0], (len(ranges), 1)), seed=seed)
    told = [(np.nan_to_num(points[number, ranges], nan=0.5), scores[number]) for number in sorted(scores)]
    size = optimizer.population_size
    for end in range(size, len(told) + 1, size):
        optimizer.tell(told[end - size : end])
    point = cube.from_uniform(np.random.default_rng(seed).random((1, len(cube.dimensions))), conditions=False)
    point[0, ranges] = optimizer.ask()
    return cube.params(cube.snap(point)[0])

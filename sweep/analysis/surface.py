"""A response surface through the NMEs of a sweep's trials, for figures and for simulating random search.

Legend: T trials, D coordinates of a point of the search space, each in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from sweep.core.search_space import Dimension
from sweep.core.trial import Params, TrialRecord
from sweep.search.sampling.unit_cube import UnitCube

_SMOOTHING = 1e-3  # of log NME


class Surface:
    """Interpolates the logarithm of the best NME linearly between trials (radial basis functions, Duchon 1977).

    Args:
        dimensions: the search space.
        records: trials; those without a finite NME are left out.

    Raises:
        ValueError: fewer than three trials have an NME, or no surface fits them.
    """

    def __init__(self, dimensions: Sequence[Dimension], records: Sequence[TrialRecord]) -> None:
        self._dimensions = dimensions
        known = [r for r in records if r.best_nme is not None and math.isfinite(r.best_nme)]
        if len(known) < 3:
            raise ValueError(f"a surface needs three trials with an NME, but got {len(known)}")
        points = np.array([encode_unit_cube(dimensions, r.params) for r in known])  # (T, D)
        values = np.log([r.best_nme or math.nan for r in known])
        self._range = float(values.min()), float(values.max())
        try:
            self._fit = RBFInterpolator(points, values, kernel="linear", smoothing=_SMOOTHING)
        except np.linalg.LinAlgError as error:
            raise ValueError(f"no surface fits these trials ({error})") from None

    def __call__(self, params: Sequence[Mapping[str, object]]) -> NDArray[np.float64]:
        """NME at points of the search space, (T,); never better or worse than the best and worst trial."""
        logs = self._fit(np.array([encode_unit_cube(self._dimensions, p) for p in params]))
        return np.exp(np.clip(logs, *self._range))


def encode_unit_cube(dimensions: Sequence[Dimension], params: Mapping[str, object]) -> list[float]:
    """A point in [0, 1]^D: a coordinate per number, one per value of a choice; a missing setting at its first value."""
    found: list[float] = []
    for d in dimensions:
        value = params.get(d.key, d.probes[0])
        if d.kind == "choice":
            found += [float(value == choice) for choice in d.choices]
        else:
            found.append(d.share(float(value)))  # type: ignore[arg-type]
    return found


def sample_randomly(dimensions: Sequence[Dimension], rng: np.random.Generator, count: int) -> list[Params]:
    """Samples points of the search space as random search does."""
    cube = UnitCube(dimensions)
    points = cube.from_uniform(rng.random((count, len(dimensions))), conditions=False)
    return [cube.params(point) for point in points]


def random_search(
    dimensions: Sequence[Dimension], surface: Surface, trials: int, *, repeats: int = 200, seed: int = 0
) -> NDArray[np.float64]:
    """The best NME after 1, 2, ... random trials with the NMEs of the surface, (repeats, trials)."""
    drawn = sample_randomly(dimensions, np.random.default_rng(seed), repeats * trials)
    return np.minimum.accumulate(surface(drawn).reshape(repeats, trials), axis=1)

"""Learning curves that were never recorded, of a surface that is known."""

import itertools
import math

import numpy as np

from sweep.simulation.recorded_curves import Curve, RecordedCurves

EPOCHS, SEEDS = 9, 3
LRS = [float(v) for v in np.logspace(-4, -2, 6)]
WEIGHTS = [float(v) for v in np.logspace(-2, 2, 6)]
SPACE = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "loss.star_weight": {"log_uniform": [0.01, 100]}}
CORNER = {"optim.lr": 1e-2, "loss.star_weight": 100.0}


def analytic(lr: float, weight: float, epoch: int) -> float:
    """Best at lr 1e-3 and star_weight 1, falling with the epochs."""
    distance = 0.10 * math.log10(lr / 1e-3) ** 2 + 0.03 * math.log10(weight) ** 2
    return 0.05 * math.exp(distance + 1.5 / epoch)


def make_curves(*, noise: float = 0.01, seeds: int = SEEDS, dying: int = 0) -> RecordedCurves:
    """36 configurations; at the corner of high lr and weight, `dying` epochs and then divergence (0: none)."""
    rng, curves = np.random.default_rng(0), []
    for lr, weight in itertools.product(LRS, WEIGHTS):
        params = {"optim.lr": lr, "loss.star_weight": weight}
        length = dying if dying and math.isclose(lr, 1e-2) and math.isclose(weight, 100) else EPOCHS
        for seed in range(seeds):
            luck = rng.normal(0, noise)
            nme = (analytic(lr, weight, e) * math.exp(luck + rng.normal(0, noise / 2)) for e in range(1, length + 1))
            curves.append(Curve(params, seed, tuple(round(v, 6) for v in nme), tuple([2.0] * length)))
    return RecordedCurves(EPOCHS, tuple(curves), {"threads": 1})

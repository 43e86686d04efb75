"""What searches find for their epochs, simulated on recorded curves of real faces; draws a picture, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.measuring import Table
from benchmarks.peers import Never, OptunasMedian, RaysHalving, run_peer
from sweep.config import load_sweep
from sweep.curves import Curves, Task
from sweep.plot_simulation import draw
from sweep.simulation import History, simulate

FOLDER = Path(__file__).parent / "curves"
CURVES, CONFIG = FOLDER / "ytf68_resnet18_32px.json.gz", FOLDER / "grid.yaml"
REPEATS, SLOTS = 100, 2
FULL_TRIALS = (4, 8, 16, 32, 64)  # budgets, in whole trainings
_SEARCH = {"trials": "100000", "repeats.share": "0", "sampler.name": "tpe", "pruner.name": "successive_halving"}
_KNOWN = "[{loss.star_weight: 1.0, optim.lr: 1.0e-3}]"
OURS = "starsweep's default: TPE on expected ends, halving with promotion"
VARIANTS: dict[str, dict[str, str]] = {
    OURS: {},
    "the same, known recipe first": {"known": _KNOWN},
    "the same, first rung at 2 epochs": {"pruner.min_epochs": "2"},
    "the same, reduction 2": {"pruner.reduction": "2"},
    "the same, reduction 4": {"pruner.reduction": "4"},
    "the same, hyperband": {"pruner.name": "hyperband"},
    "the same, stopping for good": {"pruner.pause": "false"},
    "the same, random draws": {"sampler.name": "random"},
    "the same, median rule": {"pruner.name": "median"},
    "the same, a fifth of the budget for repeats": {"repeats.share": "0.2"},
}
RANDOM = "random search, no stopping"


@dataclass(frozen=True)
class Measured:
    """Simulated sweeps by name, and the best NME there is."""

    histories: Mapping[str, list[History]]
    best: float
    epochs: int


def measure_all(repeats: int = REPEATS) -> Measured:
    """Simulates every search, each with the same seeds."""
    curves = Curves.load(CURVES)
    base = load_sweep(CONFIG, _SEARCH)
    task = Task(curves, base.dimensions)
    budget = FULL_TRIALS[-1] * curves.epochs
    peer = partial(run_peer, base.dimensions, task, SLOTS, epochs=budget)
    kinds: dict[str, Callable[[int], History]] = {
        RANDOM: lambda seed: peer(seed, rule=Never(), sampler=_random),
        "TPE, no stopping": lambda seed: peer(seed, rule=Never(), sampler=_tpe),
        "Ray's ASHA with Optuna's TPE, stopped told complete": lambda seed: peer(
            seed, rule=RaysHalving(), sampler=_tpe
        ),
        "Optuna's defaults: TPE, median pruner": lambda seed: peer(seed, rule=OptunasMedian(), sampler=_tpe),
    }
    for name, changes in VARIANTS.items():
        config = load_sweep(CONFIG, {**_SEARCH, **changes, "epochs": str(budget)})
        kinds[name] = partial(_ours, config, task)
    return Measured({n: [run(seed) for seed in range(repeats)] for n, run in kinds.items()}, task.best, curves.epochs)


def _ours(config: Any, task: Task, seed: int) -> History:
    return simulate(config, task, SLOTS, seed)


def _random(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


def _tpe(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed)


def reached_after(histories: list[History], target: float) -> int | None:
    """Epochs from which on the median of the true NME is at most the target for good; None where it never is."""
    grid = np.arange(1, max(h.epochs[-1] for h in histories) + 1)
    medians = np.median([h.at_epochs(grid) for h in histories], axis=0)
    above = np.flatnonzero(medians > target)
    first = int(above[-1]) + 2 if len(above) else 1
    return first if first <= len(grid) else None


def measure() -> Table:
    """The table of RESULTS.md."""
    measured = measure_all()
    budgets = np.array(FULL_TRIALS) * measured.epochs
    medians = {
        name: np.median([h.at_epochs(budgets) for h in histories], axis=0)
        for name, histories in measured.histories.items()
    }
    target = float(medians[RANDOM][-1])
    rows = []
    for name, values in medians.items():
        reached = reached_after(measured.histories[name], target)
        part = "-" if reached is None else f"{reached} (1/{budgets[-1] / reached:.1f})"
        rows.append([name, *(f"{(value - measured.best) * 100:.3f}" for value in values), part])
    shown = [name for name in measured.histories if not name.startswith("the same")]
    draw({name: measured.histories[name] for name in shown}, measured.best, FOLDER / "search.png")
    return Table(
        "What searches find for their epochs",
        ["search", *(f"{n} x {measured.epochs} epochs" for n in FULL_TRIALS), "random's 64 trainings reached after"],
        rows,
        f"Simulated on {CURVES.name}, {SLOTS} slots, {REPEATS} repeats with other seeds. NME regret in points: mean "
        "NME over seeds of the configuration that would be chosen then, minus the lowest there is "
        f"({measured.best:.2%}); medians. Last column: epochs from which on the median is never above what random "
        "search has after 64 whole trainings. ![regret](curves/search.png)",
    )

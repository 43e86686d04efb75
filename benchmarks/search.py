"""What searches find for their epochs, simulated on recorded curves of real faces; draws a picture, too."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna

from benchmarks.measuring import Table
from benchmarks.peers import Never, OptunasMedian, RaysHalving, Rule, run_peer
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.simulation.recorded_curves import RecordedCurves
from sweep.simulation.regret_plot import draw
from sweep.simulation.simulator import History, simulate
from sweep.simulation.surrogate import SmoothTask, SurrogateTask
from trainer.cores import available_cores

T = TypeVar("T")

FOLDER = Path(__file__).parent / "curves"
CURVES, CONFIG = FOLDER / "ytf68_resnet18_32px.json.gz", FOLDER / "grid.yaml"
REPEATS, SLOTS = 50, 2
FULL_TRIALS = (4, 8, 16, 32, 64)  # budgets, in whole trainings
_SEARCH = {"trials": "null", "repeats.share": "0", "pruner.name": "successive_halving"}  # grid.yaml stops no trial
_KNOWN = "[{loss.star_weight: 1.0, optim.lr: 1.0e-3}]"
OURS = "starsweep's default: Gaussian process on ranks, halving with promotion"
VARIANTS: dict[str, dict[str, str]] = {
    OURS: {},
    "the same, known recipe first": {"known": _KNOWN},
    "the same, random draws only": {"sampler.name": "random"},
    "the same, Optuna's TPE": {"sampler.name": "tpe"},
    "the same, stopping for good": {"pruner.pause": "false"},
    "the same, median rule": {"pruner.name": "median"},
}
RANDOM = "random search, no stopping"
PEERS: dict[str, tuple[type[Rule], Callable[..., optuna.samplers.BaseSampler]]] = {
    RANDOM: (Never, optuna.samplers.RandomSampler),
    "TPE, no stopping": (Never, optuna.samplers.TPESampler),
    "Ray's ASHA with Optuna's TPE, stopped told complete": (RaysHalving, optuna.samplers.TPESampler),
    "Optuna's defaults: TPE, median pruner": (OptunasMedian, optuna.samplers.TPESampler),
}


@dataclass(frozen=True)
class Measured:
    """Simulated sweeps by name, and the best NME there is."""

    histories: Mapping[str, list[History]]
    best: float
    epochs: int


@functools.cache
def curves() -> RecordedCurves:
    """The recorded curves."""
    return RecordedCurves.load(CURVES)


@functools.cache
def configured(epochs: int, changes: tuple[tuple[str, str], ...]) -> tuple[SweepConfig, SurrogateTask]:
    """A sweep of so many epochs with some settings changed, and what it trains on."""
    config = load_sweep(CONFIG, {**_SEARCH, **dict(changes), "epochs": str(epochs)})
    return config, SmoothTask(curves(), config.dimensions)


def search(epochs: int, changes: Mapping[str, str], seed: int) -> History:
    """One simulated sweep of ours."""
    config, task = configured(epochs, tuple(changes.items()))
    return simulate(config, task, SLOTS, seed)


def in_parallel(tasks: Iterable[tuple[Any, ...]], function: Callable[..., T]) -> list[T]:
    """The function of each of these arguments, in as many processes as there are cores."""
    with ProcessPoolExecutor(available_cores()) as pool:
        return list(pool.map(function, *zip(*tasks, strict=True), chunksize=4))


def _one(name: str, epochs: int, seed: int) -> History:
    if name in VARIANTS:
        found = search(epochs, VARIANTS[name], seed)
    else:
        config, task = configured(epochs, ())
        rule, sampler = PEERS[name]
        found = run_peer(config.dimensions, task, SLOTS, seed, epochs, rule(), lambda seed: sampler(seed=seed))
    found.records.clear()  # not looked at, and much to send
    return found


def measure_all(repeats: int = REPEATS) -> Measured:
    """Simulates every search, each with the same seeds."""
    budget = FULL_TRIALS[-1] * curves().epochs
    names = [*PEERS, *VARIANTS]
    found = iter(in_parallel([(n, budget, seed) for n in names for seed in range(repeats)], _one))
    histories = {name: list(itertools.islice(found, repeats)) for name in names}
    return Measured(histories, configured(budget, ())[1].best, curves().epochs)


def reached_after(histories: Sequence[History], target: float) -> int | None:
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

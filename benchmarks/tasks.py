"""Searches on four tasks, most of them not of faces: ours, parts of it, and other tools, at equal epochs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import optuna
from numpy.typing import NDArray

from benchmarks.lcbench import LCBench
from benchmarks.measuring import Table
from benchmarks.peers import Never, OptunasHyperband, OptunasMedian, RaysHalving, Rule, run_peer
from benchmarks.search import FOLDER, curves, in_parallel
from sweep.core.config_file import build_sweep, read_tree
from sweep.simulation.curve_table import read_table
from sweep.simulation.foreign_sweep import ForeignSweep
from sweep.simulation.repeated import standings
from sweep.simulation.simulator import History, simulate
from sweep.simulation.surrogate import NearestTask, SmoothTask, Task

TASKS = {"ytf68": "grid", "lcb_189906": "lcb_189906", "ts_irnn": "ts_irnn", "digits": "digits"}  # and their files
REPEATS, SLOTS, TRAININGS = 30, 4, 16
BUDGETS = (2, 4, 8, 16)  # whole trainings
OURS = "starsweep's default"
VARIANTS: dict[str, dict[str, str]] = {
    OURS: {},
    "the same, random draws only": {"sampler.name": "random"},
    "the same, Optuna's TPE": {"sampler.name": "tpe"},
    "the same, CMA-ES": {"sampler.name": "cmaes"},
}
RANDOM = "random search, no stopping"
PEERS: dict[str, tuple[type[Rule], Callable[..., optuna.samplers.BaseSampler]]] = {
    "Optuna: TPE, hyperband": (OptunasHyperband, optuna.samplers.TPESampler),
    "Optuna's defaults: TPE, median pruner": (OptunasMedian, optuna.samplers.TPESampler),
    "Ray's ASHA with Optuna's TPE": (RaysHalving, optuna.samplers.TPESampler),
    RANDOM: (Never, optuna.samplers.RandomSampler),
}


@dataclass(frozen=True)
class Found:
    """Simulated sweeps of one task by name, the lowest true value there is, and the epochs of a training."""

    histories: Mapping[str, Sequence[History]]
    best: float
    epochs: int

    def at(self, name: str, trainings: int) -> NDArray[np.float64]:
        """What the sweeps of this name would choose after so many whole trainings, (repeats,)."""
        spent = np.array([trainings * self.epochs])
        return np.array([h.at_epochs(spent)[0] for h in self.histories[name]])


@functools.cache
def open_task(name: str) -> tuple[ForeignSweep, Task]:
    """A task, and the sweep that searches it by our defaults."""
    file = FOLDER / f"{TASKS[name]}.yaml"
    tree = read_tree(file)
    keys, table = list(tree["space"]), FOLDER / f"{name}.parquet"
    recorded = read_table(table, "error", maximize=False, keys=keys) if table.exists() else curves()
    epochs = LCBench.epochs if name.startswith("lcb_") else recorded.epochs
    given = {"trials": "null", "epochs": str(TRAININGS * epochs), "train.optim.epochs": str(epochs)}
    given |= {"repeats.share": "0", "pruner.name": "successive_halving"}
    config = build_sweep(ForeignSweep, tree, given, str(file))
    if name.startswith("lcb_"):
        return config, LCBench(keys, name.removeprefix("lcb_"))
    return config, (NearestTask if table.exists() else SmoothTask)(recorded, config.dimensions)


def search(name: str, changes: Mapping[str, str], seed: int) -> History:
    """One sweep of ours, with some settings changed."""
    config, task = open_task(name)
    if changes:
        config = build_sweep(ForeignSweep, config.tree(), changes, name)
    return _without_trials(simulate(config, task, SLOTS, seed))


def _without_trials(history: History) -> History:
    history.records.clear()  # not looked at, and much to send
    return history


def _one(task: str, who: str, changes: Mapping[str, str], seed: int) -> History:
    if who not in PEERS:
        return search(task, changes, seed)
    config, trained = open_task(task)
    rule, sampler = PEERS[who]
    epochs = TRAININGS * trained.epochs
    return run_peer(config.dimensions, trained, SLOTS, seed, epochs, rule(), lambda seed: sampler(seed=seed))


def simulate_all(
    variants: Mapping[str, Mapping[str, str]], peers: Sequence[str], repeats: int = REPEATS, first: int = 0
) -> dict[str, Found]:
    """Every search on every task, each with the same seeds, by the name of the task."""
    names: dict[str, Mapping[str, str]] = {**variants, **{peer: {} for peer in peers}}
    jobs = [(t, n, names[n], first + seed) for t in TASKS for n in names for seed in range(repeats)]
    found = iter(in_parallel(jobs, _one))
    by_task = {t: {n: list(itertools.islice(found, repeats)) for n in names} for t in TASKS}
    return {t: Found(histories, open_task(t)[1].best, open_task(t)[1].epochs) for t, histories in by_task.items()}


def log_regrets(found: Mapping[str, Found], name: str) -> list[float]:
    """Mean decimal logarithm of the regret of a search on each task."""
    return [standings(f.histories, f.best, f.epochs)[name].log_regret for f in found.values()]


def decided(found: Mapping[str, Found], first: str, second: str, trainings: int) -> tuple[int, int]:
    """In how many repeats the first search has found something better, and something worse, than the second."""
    gaps = np.concatenate([f.at(second, trainings) - f.at(first, trainings) for f in found.values()])
    return int((gaps > 1e-9).sum()), int((gaps < -1e-9).sum())


def mean_rank(found: Mapping[str, Found], name: str, trainings: int) -> float:
    """Of a search among all, over tasks and repeats; equals share their ranks."""
    ranks = []
    for f in found.values():
        own, others = f.at(name, trainings), [f.at(other, trainings) for other in f.histories]
        below = np.sum([other < own for other in others], axis=0)
        equal = np.sum([other == own for other in others], axis=0)
        ranks.append(float((below + (equal + 1) / 2).mean()))
    return fmean(ranks)


def rows(found: Mapping[str, Found]) -> list[list[str]]:
    """A row a search: medians of the regret by task, logarithms, ranks, and how ours did against it."""
    made: list[list[str]] = []
    for name in next(iter(found.values())).histories:
        medians = [
            " ".join(f"{np.median(f.at(name, b)) - f.best:.4f}".removeprefix("0") for b in BUDGETS)
            for f in found.values()
        ]
        logs = log_regrets(found, name)
        ranks = " ".join(f"{mean_rank(found, name, b):.2f}" for b in BUDGETS[1:])
        wins = ", ".join("{}:{}".format(*decided(found, OURS, name, b)) for b in BUDGETS[1:]) if name != OURS else "-"
        made.append([name, *medians, " ".join(f"{log:.2f}" for log in logs), f"{fmean(logs):.3f}", ranks, wins])
    return made


def measure() -> Table:
    """The table of RESULTS.md."""
    found = simulate_all(VARIANTS, list(PEERS))
    return Table(
        "Searches on tasks of several kinds",
        ["search", *TASKS, "log10 regret", "mean", "mean rank", "ours better:worse"],
        rows(found),
        f"{SLOTS} slots, {REPEATS} repeats with other seeds, {TRAININGS} whole trainings; tasks in "
        "[curves/README.md](curves/README.md). Under the name of a task: regret of what would be chosen after "
        f"{', '.join(map(str, BUDGETS))} whole trainings, median. log10 regret: mean over budgets from one training on "
        f"and repeats. Ranks and repeats won: after {', '.join(map(str, BUDGETS[1:]))} trainings. No repeats of the "
        "best, which the other tools have not.",
    )

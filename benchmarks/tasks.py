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
from sweep.simulation.repeated import decided, mean_ranks, standings
from sweep.simulation.simulator import History, simulate
from sweep.simulation.surrogate import NearestTask, SmoothTask, SurrogateTask

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
def open_task(name: str) -> tuple[ForeignSweep, SurrogateTask]:
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
    return simulate(config, task, SLOTS, seed)


def _one(task: str, who: str, changes: Mapping[str, str], seed: int) -> History:
    if who in PEERS:
        config, trained = open_task(task)
        rule, sampler = PEERS[who]
        epochs = TRAININGS * trained.epochs
        found = run_peer(config.dimensions, trained, SLOTS, seed, epochs, rule(), lambda seed: sampler(seed=seed))
    else:
        found = search(task, changes, seed)
    found.records.clear()  # not looked at, and much to send
    return found


def simulate_all(
    variants: Mapping[str, Mapping[str, str]], peers: Sequence[str], repeats: int = REPEATS, first: int = 0
) -> dict[str, Found]:
    """Every search on every task, each with the same seeds, by the name of the task."""
    names: dict[str, Mapping[str, str]] = {**variants, **{peer: {} for peer in peers}}
    jobs = [(t, n, names[n], first + seed) for t in TASKS for n in names for seed in range(repeats)]
    found = iter(in_parallel(jobs, _one))
    by_task = {t: {n: list(itertools.islice(found, repeats)) for n in names} for t in TASKS}
    return {t: Found(histories, open_task(t)[1].best, open_task(t)[1].epochs) for t, histories in by_task.items()}


def log_regrets(found: Mapping[str, Found]) -> dict[str, list[float]]:
    """Mean decimal logarithm of the regret of each search on each task."""
    by_task = [standings(f.histories, f.best, f.epochs) for f in found.values()]
    return {name: [stands[name].log_regret for stands in by_task] for name in by_task[0]}


def won(found: Mapping[str, Found], first: str, second: str, trainings: int) -> tuple[int, int]:
    """In how many repeats the first search has found something better, and something worse, than the second."""
    values = [np.concatenate([f.at(name, trainings) for f in found.values()]) for name in (first, second)]
    return decided(*values)


def ranks(found: Mapping[str, Found], trainings: int) -> dict[str, float]:
    """Of each search among all, mean over tasks and repeats."""
    names = list(next(iter(found.values())).histories)
    by_task = [mean_ranks(np.array([f.at(name, trainings) for name in names])) for f in found.values()]
    return dict(zip(names, np.mean(by_task, axis=0).tolist(), strict=True))


def rows(found: Mapping[str, Found]) -> list[list[str]]:
    """A row a search: medians of the regret by task, logarithms, ranks, and how ours did against it."""
    made: list[list[str]] = []
    ranked = [ranks(found, b) for b in BUDGETS[1:]]
    for name, logs in log_regrets(found).items():
        medians = [
            " ".join(f"{np.median(f.at(name, b)) - f.best:.4f}".removeprefix("0") for b in BUDGETS)
            for f in found.values()
        ]
        by_budget = " ".join(f"{by_name[name]:.2f}" for by_name in ranked)
        wins = ", ".join("{}:{}".format(*won(found, OURS, name, b)) for b in BUDGETS[1:]) if name != OURS else "-"
        made.append([name, *medians, " ".join(f"{log:.2f}" for log in logs), f"{fmean(logs):.3f}", by_budget, wins])
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

"""What a suggestion costs one who knows very many trials, and at how many it takes too long."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import growth
from benchmarks.measuring import Table
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.core.trial import State, TrialRecord

PASTS = (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)  # trials that are known
SAMPLERS = ("rank_gp", "tpe")
_SLOW = 100.0  # milliseconds at which it counts as saturated
_DRAWS = 7


def configured(trials: int, output: Path, more: dict[str, str]) -> SweepConfig:
    """The demo's sweep with so many trials, none of which is set aside for repeats."""
    given = {"name": "scale", "output": str(output), "trials": str(trials), "repeats.share": "0", "report": "false"}
    faces = {"train_faces": "32", "val_faces": "16", "image_size": "32", "cache_dir": str(output / "cache")}
    given |= {f"train.data.{key}": value for key, value in faces.items()}
    return load_sweep(None, {**given, "train.optim.epochs": str(growth.EPOCHS), **more})


def ask(trials: int, sampler: int) -> float:
    """Milliseconds of a suggestion by one of SAMPLERS that knows so many trials, none of which is drawn at random."""
    from sweep.search.sampling.sampler import Sampler
    from sweep.search.trial_table import TrialTable

    given = {"sampler.random_share": "0", "sampler.name": SAMPLERS[sampler], "sampler.startup_trials": "14"}
    config = configured(trials, Path(tempfile.gettempdir()), given)
    asked, numbers = Sampler(config, TrialTable(config, made_up(config, trials))), itertools.count(trials)
    return _milliseconds(lambda: asked.suggest(next(numbers), {}))


def others(trials: int) -> tuple[float, float]:
    """What else grows: milliseconds of the console's line at a trial's end, and of noting what MLflow has."""
    from sweep.analysis.leaderboard import summary_line
    from sweep.tracking.projector import Progress

    with tempfile.TemporaryDirectory() as folder:
        records = list(made_up(configured(trials, Path(folder), {}), trials))
        progress, path = Progress(trials={str(number): "0" * 32 for number in range(trials)}), Path(folder) / "progress"
        return _milliseconds(lambda: summary_line(records)), _milliseconds(lambda: progress.save(path))


def _milliseconds(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(_DRAWS):
        began = time.thread_time()
        work()
        seconds.append(time.thread_time() - began)
    return 1e3 * statistics.median(seconds[1:])  # the first imports, and makes what others find


def made_up(config: SweepConfig, trials: int) -> Iterator[TrialRecord]:
    """Trials as halving leaves them: half of those at a rung go on."""
    chance = random.Random(0)
    for number in range(trials):
        params: dict[str, Any] = {
            d.key: math.exp(chance.uniform(math.log(d.low), math.log(d.high))) for d in config.dimensions
        }
        curve = [row["best_nme"] * chance.uniform(0.9, 1.1) for row in growth.epochs(*params.values())]
        epochs = min(growth.EPOCHS, 2 ** int(-math.log2(1 - chance.random())))
        state = State.COMPLETE if epochs == growth.EPOCHS else State.PRUNED
        yield TrialRecord(number, params, state, dict(enumerate(np.minimum.accumulate(curve[:epochs]).tolist(), 1)))


def crossing(costs: dict[int, float], limit: float) -> float | None:
    """The number of trials at which the cost reaches the limit, in logarithms between those measured; None: never."""
    pairs = sorted(costs.items())
    for (n, a), (m, b) in itertools.pairwise(pairs):
        if a < limit <= b:
            return n * (m / n) ** (math.log(limit / a) / math.log(b / a))
    return None


def saturation(ours: dict[int, float], tpe: dict[int, float], rest: dict[int, tuple[float, float]]) -> Table:
    """The table of suggestions: milliseconds by number of trials, of ours, of Optuna's TPE, and of what else grows."""
    header = (
        "trials",
        "suggestion ms",
        "of Optuna's TPE ms",
        "line of a trial's end ms",
        "note of MLflow's progress ms",
    )
    rows = [
        [str(trials), f"{cost:.1f}", f"{tpe[trials]:.1f}", *(f"{value:.1f}" for value in rest[trials])]
        for trials, cost in ours.items()
    ]
    return Table("What grows with the number of trials", header, rows, _text(ours, rest))


def _text(ours: dict[int, float], rest: dict[int, tuple[float, float]]) -> str:
    costs = [ours, *({trials: pair[i] for trials, pair in rest.items()} for i in range(2))]
    limits = [crossing(cost, _SLOW) for cost in costs]
    own, line, note = (f"at about {_rounded(limit)} trials" if limit else "at none of these sizes" for limit in limits)
    return (
        "A suggestion by a model, never drawn at random, to one who knows so many trials, without a database, on one "
        f"thread; median of {_DRAWS - 1}. Both see the best and an even part of the others, ours 200, TPE 2,000. The "
        "console's line comes at the end of each trial where it is no terminal, the note of what MLflow has about once "
        f"a second. {_SLOW:.0f} ms are reached by our suggestion {own}, by the line {line}, by the note {note}."
    )


def _rounded(trials: float) -> int:
    return int(round(trials, 1 - int(math.log10(trials))))

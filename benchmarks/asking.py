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

PASTS = (1000, 3000, 10_000, 30_000, 100_000, 1_000_000)  # trials that are known
ALL_UP_TO = 30_000  # where all of them are shown
_SLOW = 100.0  # milliseconds at which it counts as saturated
_DRAWS = 7


def configured(trials: int, output: Path, more: dict[str, str]) -> SweepConfig:
    """The demo's sweep with so many trials, none of which is set aside for repeats."""
    given = {"name": "scale", "output": str(output), "trials": str(trials), "repeats.share": "0", "report": "false"}
    faces = {"train_faces": "32", "val_faces": "16", "image_size": "32", "cache_dir": str(output / "cache")}
    given |= {f"train.data.{key}": value for key, value in faces.items()}
    return load_sweep(None, {**given, "train.optim.epochs": str(growth.EPOCHS), **more})


def ask(trials: int, everything: bool) -> float:
    """Milliseconds of a suggestion to one who knows so many trials; median of those that are not drawn at random.

    Args:
        trials: that are known.
        everything: whether the sampler is shown all of them.
    """
    from sweep.search import samplers

    if everything:
        samplers._SHOWN = trials
    config = configured(trials, Path(tempfile.gettempdir()), {"sampler.random_share": "0"})
    past = samplers.Past(config, made_up(config, trials))
    numbers = itertools.count(trials)
    return _milliseconds(lambda: samplers.draw(config, past, next(numbers)))


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


def saturation(shown: dict[int, float], everything: dict[int, float], rest: dict[int, tuple[float, float]]) -> Table:
    """The table of asks: milliseconds by number of trials, where all of them are shown, and of what else grows."""
    header = (
        "trials",
        "ask ms",
        "all trials shown: ask ms",
        "line of a trial's end ms",
        "note of MLflow's progress ms",
    )
    rows = []
    for trials, cost in shown.items():
        whole = f"{everything[trials]:.1f}" if trials in everything else "-"
        rows.append([str(trials), f"{cost:.1f}", whole, *(f"{value:.1f}" for value in rest[trials])])
    text = _text(shown, everything) + _next(rest)
    return Table("What grows with the number of trials: the ask saturates first", header, rows, text)


def _next(rest: dict[int, tuple[float, float]]) -> str:
    limits = [crossing({trials: pair[i] for trials, pair in rest.items()}, _SLOW) for i in range(2)]
    line, note = (f"at about {_rounded(limit)} trials" if limit else "at none of these sizes" for limit in limits)
    return f" What comes next: the note takes {_SLOW:.0f} ms {note}, the line {line}."


def _text(shown: dict[int, float], everything: dict[int, float]) -> str:
    now, before, (last, cost) = crossing(shown, _SLOW), crossing(everything, _SLOW), max(shown.items())
    text = (
        "An ask here is a suggestion of TPE, never drawn at random, to one who knows so many trials, without a "
        f"database; median of {_DRAWS - 1}. The console's line comes at the end of each trial where it is no terminal, "
        "the note of what MLflow has about once a second. "
    )
    if before is None:
        return text
    as_is = f"at about {_rounded(now)} trials" if now else f"at more than {last} trials ({cost:.0f} ms there)"
    return text + (
        f"An ask takes {_SLOW:.0f} ms at about {_rounded(before)} trials where the sampler is shown all of them, and "
        f"{as_is} as it is: it is shown the best and a sample of the others, found in arrays. So the size at which it "
        f"saturates is moved out by {'' if now else 'more than '}{(now or last) / before:.0f}x."
    )


def _rounded(trials: float) -> int:
    return int(round(trials, 1 - int(math.log10(trials))))

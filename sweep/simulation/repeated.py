"""Many simulated sweeps, on all cores, and what they say together: tables, and how sure a difference is."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool

import numpy as np
from numpy.typing import NDArray

from sweep.core.config import SearchConfig
from sweep.core.formatting import format_seconds
from sweep.simulation.recorded_curves import NME, Metric
from sweep.simulation.simulator import History, simulate
from sweep.simulation.surrogate import SurrogateTask

_ROWS = 8  # of the table of one sweep
_BUDGETS = 4  # columns of the table of several, each twice the one before
_QUARTILES = (0.25, 0.5, 0.75)
_FEW = 8  # sweeps that are not worth other processes
_POINTS = 40  # at which the regret of a sweep is looked at
_LEAST = 1e-3  # of a sweep's regret after one training: what is less counts as this, before the logarithm is taken
_SAME = 1e-9  # difference of what is the same

Job = tuple[SearchConfig, SurrogateTask, int, int]  # as `simulate` takes it


def simulate_all(
    sweeps: Mapping[str, SearchConfig], task: SurrogateTask, slots: int, repeats: int, processes: int
) -> dict[str, list[History]]:
    """Each sweep so many times, with the seeds of its config and after it; without the trials at the end.

    Args:
        sweeps: by name.
        task: what is trained.
        slots: trials side by side.
        repeats: of each sweep.
        processes: in which that is done at most.
    """
    jobs: list[Job] = [(config, task, slots, config.seed + i) for config in sweeps.values() for i in range(repeats)]
    if processes == 1 or len(jobs) < _FEW:
        found = list(map(_simulated, jobs))
    else:
        with _pool(min(processes, len(jobs))) as pool:
            found = pool.map(_simulated, jobs, chunksize=1)
    return {name: found[i * repeats : (i + 1) * repeats] for i, name in enumerate(sweeps)}


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[Pool]:
    """Processes that leave Ctrl-C to this one, which ends them."""
    with contextlib.ExitStack() as stack:
        with _ctrl_c_later():
            resource_tracker.ensure_running()  # which lets through what is blocked when it starts
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # they are born with it blocked
            try:
                pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield pool


@contextlib.contextmanager
def _ctrl_c_later() -> Iterator[None]:
    """Lets Ctrl-C interrupt the main thread at the end of the block.

    To block the signal there is not enough: it goes to another thread then, of OpenBLAS for instance, and Python
    interrupts the main thread for that.
    """
    if threading.current_thread() is not threading.main_thread():  # none but that is interrupted
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _simulated(job: Job) -> History:
    history = simulate(*job)
    history.records.clear()  # much to send
    return history


def table(histories: Sequence[History], best: float, metric: Metric = NME) -> str:
    """Value and regret of the chosen configuration at ever larger parts of the budget, median and quartiles.

    Args:
        histories: simulated sweeps.
        best: the lowest true value there is.
        metric: what is shown.
    """
    longest = max(h.epochs[-1] for h in histories)
    grid = np.unique(np.geomspace(max(1, longest / 64), longest, _ROWS).astype(np.int64))
    true = quartiles(np.array([h.at_epochs(grid) for h in histories]))
    hours = np.median([np.interp(grid, h.epochs, h.hours) for h in histories], axis=0)
    heading = f"true {metric.name} of the choice (quartiles)"
    lines = [f"epochs  time       {heading}   {metric.regret}"]
    for i, epochs in enumerate(grid):
        spent, values = format_seconds(hours[i] * 3600), spread(true[:, i], metric)
        regret = metric.difference(true[1, i] - best)
        lines.append(f"{epochs:6d}  {spent:9}  {values:{len(heading)}}   {regret:>{len(metric.regret)}}")
    low, middle, high = (metric.shown(v, 3) for v in quartiles(np.array([[h.true[-1]] for h in histories]))[:, 0])
    bounds = f"{low.removesuffix('%')} to {high.removesuffix('%')}"
    lines.append(f"at the end {middle} ({bounds}); the best there is: {metric.shown(best, 3)}")
    return "\n".join(lines)


def spread(values: NDArray[np.float64], metric: Metric) -> str:
    """A median with its quartiles, which are given in rising order: such as '  5.12% (5.01 to 5.40)'."""
    low, middle, high = (metric.shown(value) for value in values)
    return f"{middle:>7} ({low.removesuffix('%')} to {high.removesuffix('%')})"


def quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower quartile, median and upper quartile over the first axis, by order and without interpolation: (3, ...)."""
    return np.quantile(values, _QUARTILES, axis=0, method="nearest")


@dataclass(frozen=True)
class Standing:
    """How one kind of sweep stands among others, all with the same seeds.

    Attributes:
        log_regret: decimal logarithm of the regret, mean over budgets and repeats.
        error: standard error of its mean difference to that of the first kind; of its own mean for the first.
        rank: among all kinds at the end, mean over repeats; 1 is the best.
        ahead: repeats that end with a better choice than the same repeat of the first kind.
        behind: those that end with a worse one.
    """

    log_regret: float
    error: float
    rank: float
    ahead: int
    behind: int

    @property
    def chance(self) -> float:
        """How probable so uneven a count is, if both kinds were equally good: the sign test, two-sided."""
        from scipy.stats import binomtest

        decided = self.ahead + self.behind
        return float(binomtest(self.ahead, decided).pvalue) if decided else 1.0


def standings(sweeps: Mapping[str, Sequence[History]], best: float, epochs: int) -> dict[str, Standing]:
    """Compares kinds of sweeps.

    Args:
        sweeps: histories by name of the kind; the first kind is what the others are compared with.
        best: the lowest true value there is.
        epochs: of a whole training: before so many are spent, nothing is compared.
    """
    last = min(h.epochs[-1] for histories in sweeps.values() for h in histories)
    grid = np.unique(np.geomspace(min(epochs, last), last, _POINTS).round().astype(np.int64))
    regrets = {name: np.array([h.at_epochs(grid) for h in histories]) - best for name, histories in sweeps.items()}
    worst = max(float(r[np.isfinite(r)].max(initial=0.0)) for r in regrets.values())
    first = np.median(next(iter(regrets.values()))[:, 0])
    least = _LEAST * min(worst, first) or _SAME
    logs = {name: np.log10(np.clip(regret, least, max(worst, least))).mean(1) for name, regret in regrets.items()}
    ends = np.array([[h.true[-1] for h in histories] for histories in sweeps.values()])  # (kinds, repeats)
    base = next(iter(logs.values()))
    found = {}
    for (name, log), end, rank in zip(logs.items(), ends, mean_ranks(ends), strict=True):
        differences = log if log is base else log - base
        error = float(differences.std(ddof=1)) / math.sqrt(len(log)) if len(log) > 1 else math.nan
        found[name] = Standing(float(log.mean()), error, float(rank), *decided(end, ends[0]))
    return found


def mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rank of each kind in each repeat, mean over repeats, (K,); 1 is the least, and equals share theirs.

    Args:
        values: what each kind has found in each repeat, (K, R).
    """
    from scipy.stats import rankdata

    return np.mean(rankdata(values, axis=0), axis=1)


def decided(values: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[int, int]:
    """In how many repeats a kind has found something better than another, and in how many something worse."""
    return int((values < others - _SAME).sum()), int((values > others + _SAME).sum())


def comparison(sweeps: Mapping[str, Sequence[History]], best: float, epochs: int, metric: Metric = NME) -> str:
    """Kinds of sweeps side by side: what they have found after the same epochs, then how they stand."""
    last = max(h.epochs[-1] for histories in sweeps.values() for h in histories)
    budgets = np.array(sorted({max(1, last >> i) for i in range(_BUDGETS)}))
    width = max(map(len, sweeps))
    rows = {"": list(map(str, budgets.tolist()))}
    for name, histories in sweeps.items():
        true = quartiles(np.array([h.at_epochs(budgets) for h in histories]))
        rows[name] = [spread(true[:, i], metric).strip() for i in range(len(budgets))]
    column = max(len(cell) for cells in rows.values() for cell in cells)
    lines = [f"true {metric.name} of the choice, median (quartiles), after epochs"]
    for name, cells in rows.items():
        lines.append(f"{name:{width}}  {'  '.join(f'{cell:{column}}' for cell in cells)}".rstrip())
    lines += ["", f"{'':{width}}  log10 regret  against the first  mean rank  ahead : behind at the end (chance)"]
    found = standings(sweeps, best, epochs)
    base = next(iter(found.values()))
    for name, s in found.items():
        gain = f"{s.log_regret - base.log_regret:+.3f} ± {s.error:.3f}" if s is not base else "-"
        sure = f"{s.ahead} : {s.behind} ({s.chance:.2g})" if s is not base else "-"
        lines.append(f"{name:{width}}  {s.log_regret:12.3f}  {gain:>17}  {s.rank:9.2f}  {sure}")
    lines.append(
        "log10 regret: mean over budgets from one whole training on, less is better, with the standard error of the "
        "paired difference; chance: of so uneven a count, if both were equally good (sign test)"
    )
    return "\n".join(lines)

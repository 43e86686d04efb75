"""What repeats of the best configurations bring: the same budget with and without them, simulated."""

from __future__ import annotations

import numpy as np

from benchmarks.measuring import Table
from benchmarks.search import CURVES, REPEATS, SLOTS, configured, curves, in_parallel, search

BUDGETS = (4, 8, 16, 32, 64)  # in whole trainings
SHARES = {"lowest NME, no repeats": "0", "a fifth for repeats": "0.2"}


def _chosen(rule: str, epochs: int, seed: int) -> float:
    """The true NME of what a sweep has chosen when its budget is spent."""
    return search(epochs, {"repeats.share": SHARES[rule]}, seed).true[-1]


def measure(repeats: int = REPEATS) -> Table:
    """The table of RESULTS.md."""
    epochs = [n * curves().epochs for n in BUDGETS]
    tasks = [(rule, budget, seed) for budget in epochs for rule in SHARES for seed in range(repeats)]
    found = np.array(in_parallel(tasks, _chosen)).reshape(len(BUDGETS), len(SHARES), repeats)
    best = configured(epochs[0], ())[1].best
    rows = [_row(budget, values, best) for budget, values in zip(epochs, found, strict=True)]
    return Table(
        "What repeats with other seeds bring",
        ["epochs", *(f"{rule}: median, mean" for rule in SHARES), "gain, mean", "better : worse"],
        rows,
        f"Simulated on {CURVES.name}, {SLOTS} slots, {repeats} repeats with other seeds, sweeps of the default with "
        "just that budget; the repeats are paid from it. NME regret of the winner in points, as in the table above; "
        "gain with its standard error, sweep by sweep.",
    )


def _row(epochs: int, values: np.ndarray, best: float) -> list[str]:
    """One budget; values are true NMEs, (2, repeats)."""
    regret = (values - best) * 100
    gains = regret[0] - regret[1]
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    cells = [f"{np.median(r):.3f}, {r.mean():.3f}" for r in regret]
    return [str(epochs), *cells, f"{gains.mean():.3f} ± {error:.3f}", f"{(gains > 0).sum()} : {(gains < 0).sum()}"]

"""python -m sweep.simulate SWEEP.yaml --curves FILE: what a sweep would find for its budget, before a GPU is paid for.

Trains nothing: study, sampler, pruner and budget are those of the sweep, the learning curves are recorded ones.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweep.command import carry_out
from sweep.config import SweepConfig, load_sweep
from sweep.console import format_seconds
from sweep.curves import Curves, Task
from sweep.folder import find_sweep
from sweep.loaded import load
from sweep.simulation import History, simulate
from sweep.warm_start import warmed
from trainer.settings import ArgumentParser, ConfigError

_ROWS = 8  # of the table
_QUARTILES = (0.25, 0.5, 0.75)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.simulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="settings of the sweep; without it, the demo")
    parser.add_argument(
        "--curves", metavar="FILE", nargs="+", required=True, help="recorded curves, or names or folders of sweeps"
    )
    parser.add_argument("--repeats", metavar="N", type=int, default=100, help="simulated sweeps [default: 100]")
    parser.add_argument("--save-curves", metavar="FILE", type=Path, help="also write the curves as one .json.gz file")
    parser.add_argument("--out", metavar="PNG", type=Path, default=Path("simulation.png"), help="picture to write")
    parser.add_settings(SweepConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return carry_out(parser, lambda: _simulate(arguments, parser.overrides(arguments)), "interrupted")


def _simulate(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    if arguments.repeats < 1:
        raise ConfigError(f"--repeats {arguments.repeats}: must be at least 1")
    _check_target("--out", arguments.out, ".png")
    if arguments.save_curves:
        _check_target("--save-curves", arguments.save_curves, ".json.gz")
    config = warmed(load_sweep(arguments.sweep, overrides))
    curves, epochs = read_curves(arguments.curves, Path(config.output)), config.train.optim.epochs
    if arguments.save_curves:
        curves.save(arguments.save_curves)
    task, slots, began = Task(curves, config.dimensions, epochs), config.slots or 1, time.monotonic()
    histories = [simulate(config, task, slots, config.seed + i) for i in range(arguments.repeats)]
    if not all(h.epochs and math.isfinite(h.true[-1]) for h in histories):
        raise ConfigError("the budget ends before any trial has an NME, or all that are tried diverge")
    print(
        f"{arguments.repeats} simulated sweeps of {config.sampler.name} and {config.pruner.name}, "
        f"{slots} slot{'s' * (slots > 1)}, on {len(curves.curves)} recorded trainings of {curves.epochs} epochs"
        f"{f' stretched to {epochs}' if epochs != curves.epochs else ''} ({time.monotonic() - began:.1f} s)"
    )
    print(table(histories, task.best))
    from sweep.plot_simulation import draw

    draw({config.name: histories}, task.best, arguments.out)
    print(f"picture: {arguments.out}")
    return 0


def _check_target(option: str, path: Path, ending: str) -> None:
    if path.is_dir() or not path.name.endswith(ending):
        raise ConfigError(f"{option} {path}: must be a file that ends in {ending}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}")


def read_curves(names: Sequence[str], output: Path) -> Curves:
    """One file of recorded curves, or sweeps by name in the output folder or by folder.

    Raises:
        ConfigError: there is no such file or sweep, or it cannot be read.
    """
    if len(names) == 1 and Path(names[0]).is_file():
        return Curves.load(Path(names[0]))
    return Curves.of_sweeps([load(find_sweep(name, output)) for name in names])


def table(histories: Sequence[History], best: float) -> str:
    """NME and regret of the chosen configuration at ever larger parts of the budget, median and quartiles.

    Args:
        histories: simulated sweeps.
        best: the lowest true NME there is, a fraction.
    """
    longest = max(h.epochs[-1] for h in histories)
    grid = np.unique(np.geomspace(max(1, longest / 64), longest, _ROWS).astype(np.int64))
    true = quartiles(np.array([h.at_epochs(grid) for h in histories]))
    hours = np.median([np.interp(grid, h.epochs, h.hours) for h in histories], axis=0)
    lines = ["epochs  time       true NME of the choice (quartiles)   regret, points"]
    for i, epochs in enumerate(grid):
        low, middle, high = true[:, i] * 100
        spent = format_seconds(hours[i] * 3600)
        lines.append(f"{epochs:6d}  {spent:9}  {middle:6.2f}% ({low:.2f} to {high:.2f}) {middle - best * 100:22.2f}")
    ends = quartiles(np.array([[h.true[-1]] for h in histories]))[:, 0] * 100
    lines.append(f"at the end {ends[1]:.3f}% ({ends[0]:.3f} to {ends[2]:.3f}); the best there is: {best:.3%}")
    return "\n".join(lines)


def quartiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower quartile, median and upper quartile over the first axis, by order and without interpolation: (3, ...)."""
    return np.quantile(values, _QUARTILES, axis=0, method="nearest")


if __name__ == "__main__":
    sys.exit(main())

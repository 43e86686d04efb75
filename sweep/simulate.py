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

from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.driver.command_line import carry_out
from sweep.driver.warm_start import warmed
from sweep.simulation.recorded_curves import read_curves
from sweep.simulation.simulator import simulate, table
from sweep.simulation.surrogate import Task
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser


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
    from sweep.simulation.regret_plot import draw

    draw({config.name: histories}, task.best, arguments.out)
    print(f"picture: {arguments.out}")
    return 0


def _check_target(option: str, path: Path, ending: str) -> None:
    if path.is_dir() or not path.name.endswith(ending):
        raise ConfigError(f"{option} {path}: must be a file that ends in {ending}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}")


if __name__ == "__main__":
    sys.exit(main())

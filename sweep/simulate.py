"""python -m sweep.simulate SWEEP.yaml --curves FILE: what a sweep would find for its budget, before a GPU is paid for.

Trains nothing: study, sampler, pruner and budget are those of the sweep, the learning curves are recorded ones: of
earlier sweeps, or of anything else that was trained, as a table with a row an epoch.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sweep.analysis.warm_start import warmed
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.driver.command_line import run_command
from sweep.simulation.curve_table import TABLES, read_table
from sweep.simulation.foreign_sweep import ForeignSweep, load_foreign, space_keys
from sweep.simulation.recorded_curves import RecordedCurves, read_curves
from sweep.simulation.repeated import comparison, simulate_all, table
from sweep.simulation.surrogate import NearestTask, SmoothTask, SurrogateTask
from trainer.cores import available_cores
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.simulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep", nargs="?", metavar="SWEEP.yaml", help="settings of the sweep; without it, the demo")
    parser.add_argument(
        "--curves",
        metavar="FILE",
        nargs="+",
        required=True,
        help="recorded curves; names or folders of sweeps; or a table (.csv, .csv.gz or .parquet) with a row an epoch: "
        "columns epoch, parameters, metrics, and perhaps trial, seed and seconds",
    )
    parser.add_argument("--metric", metavar="NAME", help="of a table: the column that is searched by")
    parser.add_argument("--maximize", action="store_true", help="of a table: more of the metric is better")
    parser.add_argument(
        "--compare",
        metavar="SETTINGS",
        nargs="+",
        default=[],
        help="also simulate the sweep with these settings, such as sampler.name=tpe or 'epochs=900 pruner.name=none', "
        "and rank them all",
    )
    parser.add_argument("--repeats", metavar="N", type=int, default=100, help="simulated sweeps [default: 100]")
    parser.add_argument("--save-curves", metavar="FILE", type=Path, help="also write the curves as one .json.gz file")
    parser.add_argument("--out", metavar="PNG", type=Path, default=Path("simulation.png"), help="picture to write")
    parser.add_argument("--processes", metavar="N", type=int, help="side by side [default: one a core]")
    parser.add_settings(SweepConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return run_command(parser, lambda: _simulate(arguments, parser.overrides(arguments)), "interrupted")


def _simulate(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    for option, value in (("--repeats", arguments.repeats), ("--processes", arguments.processes)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} {value}: must be at least 1")
    _check_target("--out", arguments.out, ".png")
    curves, sweeps = _read(arguments, overrides)
    config = next(iter(sweeps.values()))
    if arguments.save_curves:
        curves.save(arguments.save_curves)
    epochs = config.train.optim.epochs
    kind = NearestTask if isinstance(config, ForeignSweep) else SmoothTask
    task: SurrogateTask = kind(curves, config.dimensions, epochs)
    slots, began = config.slots or 1, time.monotonic()
    found = simulate_all(sweeps, task, slots, arguments.repeats, arguments.processes or available_cores())
    if not all(h.epochs and math.isfinite(h.true[-1]) for histories in found.values() for h in histories):
        raise ConfigError("the budget ends before any trial has an NME, or all that are tried diverge")
    print(
        f"{arguments.repeats} simulated sweeps of {config.sampler.name} and {config.pruner.name}, "
        f"{slots} slot{'s' * (slots > 1)}, on {len(curves.curves)} recorded trainings of {curves.epochs} epochs"
        f"{f' stretched to {epochs}' if epochs != curves.epochs else ''} ({time.monotonic() - began:.1f} s)"
    )
    if isinstance(config, ForeignSweep):
        print("space: " + ", ".join(f"{key} {_ends(spec)}" for key, spec in config.space.items()))
    print(table(found[config.name], task.best, curves.metric))
    if len(found) > 1:
        print("\n" + comparison(found, task.best, epochs, curves.metric))
    from sweep.simulation.regret_plot import draw

    draw(found, task.best, arguments.out, curves.metric)
    print(f"picture: {arguments.out}")
    return 0


def _read(arguments: argparse.Namespace, overrides: dict[str, str]) -> tuple[RecordedCurves, dict[str, SweepConfig]]:
    """The curves, and the sweeps to simulate by their names: the given one first, then those to compare it with."""
    variants = {text: overrides | _settings(text) for text in arguments.compare}
    tables = [name for name in arguments.curves if name.endswith(TABLES)]
    sweeps: dict[str, SweepConfig] = {}
    if not tables:
        if arguments.metric or arguments.maximize:
            raise ConfigError("--metric and --maximize are for a table of curves")
        if arguments.save_curves:
            _check_target("--save-curves", arguments.save_curves, ".json.gz")
        config = warmed(load_sweep(arguments.sweep, overrides))
        curves = read_curves(arguments.curves, Path(config.output))
        sweeps |= {text: warmed(load_sweep(arguments.sweep, given)) for text, given in variants.items()}
    elif len(arguments.curves) > 1 or arguments.metric is None:
        raise ConfigError(f"--curves {tables[0]}: a table stands alone, and needs --metric COLUMN, what to search by")
    elif arguments.save_curves:
        raise ConfigError("--save-curves: a table is a file of curves already")
    else:
        keys = space_keys(arguments.sweep, overrides)
        curves = read_table(Path(tables[0]), arguments.metric, maximize=arguments.maximize, keys=keys)
        config = load_foreign(arguments.sweep, overrides, curves)
        sweeps |= {text: load_foreign(arguments.sweep, given, curves) for text, given in variants.items()}
    if any(s.train.optim.epochs != config.train.optim.epochs or s.space != config.space for s in sweeps.values()):
        raise ConfigError("--compare: the sweeps must share their space and the epochs of a training")
    return curves, {config.name: config, **sweeps}


def _settings(text: str) -> dict[str, str]:
    """Settings such as 'epochs=900 pruner.name=none'."""
    pairs = [word.partition("=") for word in shlex.split(text)]
    if bad := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"--compare {text!r}: {bad[0]} is no KEY=VALUE")
    return {key.removeprefix("--"): value for key, _, value in pairs}


def _ends(spec: Mapping[str, Sequence[object]]) -> str:
    kind, values = next((kind, values) for kind, values in spec.items() if kind != "when")
    return f"{kind} [{', '.join(f'{v:.4g}' if isinstance(v, float) else str(v) for v in values)}]"


def _check_target(option: str, path: Path, ending: str) -> None:
    if path.is_dir() or not path.name.endswith(ending):
        raise ConfigError(f"{option} {path}: must be a file that ends in {ending}")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}")


if __name__ == "__main__":
    sys.exit(main())

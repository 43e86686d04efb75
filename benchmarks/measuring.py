"""How things are timed here: variants in turn, so that a noisy machine is noisy for all of them, and medians."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V", bound=Any)  # what can be sorted: numbers, or tuples by their first


@dataclass(frozen=True)
class Table:
    """One measurement: what it is, the figures, and under which conditions they were taken."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    conditions: str

    def markdown(self) -> str:
        """The table under its title, with the conditions below."""
        lines = [f"## {self.title}", "", _row(self.header), _row(["---"] * len(self.header))]
        return "\n".join([*lines, *map(_row, self.rows), "", self.conditions])


@dataclass(frozen=True)
class Tables:
    """Several measurements that belong together."""

    tables: Sequence[Table]

    def markdown(self) -> str:
        """One below the other."""
        return "\n\n".join(table.markdown() for table in self.tables)


def time_in_turn(variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each variant, called one after the other in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(warmup + rounds):
        for name, function in variants.items():
            started = time.perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def medians_in_turn(variants: Mapping[K, Callable[[], V]], rounds: int) -> dict[K, V]:
    """The median of what each variant gives, asked one after the other in every round."""
    found: dict[K, list[V]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            found[name].append(measure())
    return {name: statistics.median_low(values) for name, values in found.items()}


def run_alone(module: str, *words: str, **environment: str) -> str:
    """What a module prints that is run with these words in a process of its own."""
    command = [sys.executable, "-m", module, *words]
    env = os.environ | environment
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout


def peak_memory() -> int:
    """Of this process until now, in bytes."""
    found = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())  # ru_maxrss counts the parent's too
    return 1024 * int(found[0])


def machine() -> str:
    """Such as 'Linux x86_64, 2 cores, Python 3.11.7, torch 2.14.1, ...'."""
    from trainer.cores import available_cores

    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "ray", "optuna", "mlflow"))
    system = f"{platform.system()} {platform.machine()}, {available_cores()} cores"
    return f"{system}, Python {platform.python_version()}, {packages}"


def milliseconds(seconds: float) -> str:
    """Such as '9.31 ms', '940 ms'."""
    value = seconds * 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"

"""python -m benchmarks [NAME ...]: measures, prints the tables and writes them into benchmarks/RESULTS.md."""

from __future__ import annotations

import argparse
import datetime
import importlib
import re
import sys
from pathlib import Path

from benchmarks.measuring import machine

NAMES = (
    "kernel",
    "step",
    "forms",
    "data",
    "sweep",
    "growth",
    "scale",
    "packing",
    "outage",
    "search",
    "tasks",
    "repeats",
)
ELSEWHERE = ("gpu",)  # only where they are named: they need what most machines have not
_ALL = NAMES + ELSEWHERE
RESULTS = Path(__file__).parent / "RESULTS.md"


def main() -> int:
    """Runs the benchmarks that were named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_ALL)}; without one, all but gpu")
    names = parser.parse_args().names or NAMES
    if unknown := set(names) - set(_ALL):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))} (there are {', '.join(_ALL)})")
    for name in names:
        text = importlib.import_module(f"benchmarks.{name}").measure().markdown()
        text += f" Measured {datetime.date.today()}: {machine()}."
        print(text, end="\n\n", flush=True)
        write_section(RESULTS, name, text)
    return 0


def write_section(path: Path, name: str, text: str) -> None:
    """Puts the text in place of the section of this name; the other sections stay as they are."""
    sections = dict.fromkeys(_ALL, "")
    if path.exists():
        sections |= dict(re.findall(r"<!-- (\w+) -->\n(.*?)\n(?=<!-- |\Z)", path.read_text(encoding="utf-8"), re.S))
    sections[name] = text + "\n"
    parts = [f"<!-- {name} -->\n{body}\n" for name, body in sections.items() if body]
    path.write_text("# What it costs\n\nWritten by `make bench`.\n\n" + "".join(parts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

"""starsweep recipes [NAME]: lists the sweep files that come with the package, or writes one out to be changed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sweep.core.config_file import RECIPES
from sweep.driver.command_line import own_command, run_command
from trainer.atomic_file import replacing
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser, nearest


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(prog="python -m sweep.recipes", description=__doc__)
    parser.add_argument("recipe", nargs="?", metavar="NAME", help="of a recipe; without it, they are listed")
    parser.add_argument("--out", metavar="FILE", help="where to write it [default: NAME.yaml]")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 failed, 2 bad input."""
    parser = build_parser()
    arguments = parser.parse(argv)
    return run_command(parser, lambda: _run(arguments), "interrupted")


def _run(arguments: argparse.Namespace) -> int:
    known = _recipes()
    if arguments.recipe is None:
        width = max(map(len, known))
        print("\n".join(f"{name:{width}}  {_first_sentence(path)}" for name, path in known.items()))
        print(f"\nto change one:  {own_command('sweep.recipes')} NAME", file=sys.stderr)
        return 0
    if arguments.recipe not in known:
        near = nearest(arguments.recipe, list(known)) or f" (there: {', '.join(known)})"
        raise ConfigError(f"{arguments.recipe}: no such recipe{near}")
    out = Path(arguments.out or f"{Path(arguments.recipe).name}.yaml")
    if out.exists():
        raise ConfigError(f"{out} is there already; --out names another file")
    with replacing(out) as temporary:
        temporary.write_text(_self_contained(known[arguments.recipe]), encoding="utf-8")
    module = "trainer.train" if arguments.recipe.startswith("train/") else "sweep.run"
    print(f"{out} is written; change it, then:  {own_command(module)} {out}")
    return 0


def _recipes() -> dict[str, Path]:
    """The recipes by name: sweeps, then trainings as train/NAME."""
    sweeps = {path.stem: path for path in sorted((RECIPES / "sweep").glob("*.yaml"))}
    return sweeps | {f"train/{path.stem}": path for path in sorted((RECIPES / "train").glob("*.yaml"))}


def _self_contained(path: Path) -> str:
    """The text of a recipe, with its comments; what it takes from another file stands in it."""
    text = path.read_text(encoding="utf-8")
    found = re.search(r"^train: (\S+)\n", text, re.MULTILINE)
    if not found:
        return text
    inner = (path.parent / found[1]).read_text(encoding="utf-8").splitlines()
    indented = "\n".join(f"  {line}" if line else "" for line in inner)
    return text.replace(found[0], f"train:\n{indented}\n")


def _first_sentence(path: Path) -> str:
    comment = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return comment.split(". ")[0].removesuffix(".")


if __name__ == "__main__":
    sys.exit(main())

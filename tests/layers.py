"""The layers of both packages: what each may import, what each does import, and the picture of it in the docs.

`python tests/layers.py` draws the picture anew, between two marks in docs/architecture.md.
"""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
FILES = sorted(path for package in ("trainer", "sweep") for path in (PROJECT / package).rglob("*.py"))
DOCUMENT = PROJECT / "docs" / "architecture.md"
BEGIN, END = "<!-- drawn by tests/layers.py -->\n", "<!-- end -->\n"


class Layer(NamedTuple):
    """Files and packages that stand together, and the layers below them, which they may import."""

    members: set[str]
    below: set[str]


TRAINER = {
    "ground": Layer(
        {"errors", "cores", "landmarks", "metrics", "metric_names", "coords", "atomic_file"}
        | {"settings", "config", "data_config", "forms", "pulse", "run_folder", "user_folders"},
        set(),
    ),
    "machine": Layer({"runtime", "checkpoint"}, {"ground"}),
    "network": Layer({"heatmap", "model", "losses", "optim"}, {"ground"}),
    "faces": Layer({"synthetic", "data"}, {"ground", "machine"}),
    "loop": Layer(
        {"engine", "run_state", "evaluation", "form_speed", "inference"}, {"ground", "machine", "network", "faces"}
    ),
    "tools": Layer({"visualize", "speed", "onnx_export", "serving"}, {"ground", "machine", "network", "faces", "loop"}),
    "commands": Layer(
        {"train", "evaluate", "predict", "show", "export"}, {"ground", "machine", "faces", "loop", "tools"}
    ),
}
SWEEP = {
    "core": Layer({"core"}, set()),
    "storage": Layer({"storage"}, {"core"}),
    "search": Layer({"search", "study"}, {"core", "storage"}),
    "execution": Layer({"execution"}, {"core", "storage"}),
    "tracking": Layer({"tracking"}, {"core", "storage"}),
    "analysis": Layer({"analysis"}, {"core", "storage", "search"}),
    "simulation": Layer({"simulation"}, {"core", "storage", "search", "analysis"}),
    "reporting": Layer({"reporting"}, {"core", "storage", "search", "analysis"}),
    "driver": Layer({"driver"}, {"core", "storage", "search", "execution", "tracking", "analysis", "reporting"}),
    "commands": Layer(
        {"run", "report", "rerun", "card", "simulate", "sync", "recipes", "__main__"},
        {"core", "storage", "tracking", "analysis", "simulation", "reporting", "driver"},
    ),
}
PACKAGES = {"sweep": SWEEP, "trainer": TRAINER}


def module_of(path: Path) -> str:
    """Such as sweep.search.study; a package for its __init__."""
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file, parsed once for all that look at it."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Full names of all that a file imports, at its top, inside of functions or for type checkers only."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return frozenset(found)


def layers_of(module: str) -> set[str]:
    """The layers that hold a module: one for each but the packages themselves, whose face stands above all."""
    package, *rest = module.split(".")
    return {name for name, layer in PACKAGES[package].items() if rest and rest[0] in layer.members}


def reached(path: Path) -> dict[str, set[str]]:
    """What a file imports of its own package, and the layers that hold it."""
    package = module_of(path).partition(".")[0]
    return {name: layers_of(name) for name in imported(path) if name.startswith(f"{package}.")}


def used(package: str) -> dict[str, set[str]]:
    """Which layers of a package really import which others of it."""
    found: dict[str, set[str]] = {name: set() for name in PACKAGES[package]}
    for path in FILES:
        for own in layers_of(module_of(path)) if path.is_relative_to(PROJECT / package) else ():
            found[own] |= set().union(*reached(path).values()) - {own}
    return found


def picture() -> str:
    """Both packages as a Mermaid flowchart: an arrow from each layer to the next that it imports."""
    lines = ["```mermaid", "flowchart TB"]
    for package, layers in PACKAGES.items():
        lines += [f"  subgraph {package}", "    direction LR"]
        for name in reversed(layers):
            lines.append(f'    {package}_{name}["<b>{name}</b><br/>{label(package, name)}"]')
        needs = used(package)
        for name in reversed(layers):
            below = direct(name, needs)
            lines += [f"    {package}_{name} --> {package}_{other}" for other in layers if other in below]
        lines.append("  end")
    return "\n".join([*lines, "  sweep --> trainer", "```", ""])


def label(package: str, layer: str) -> str:
    """What a package that is a layer says of itself; else the members of the layer."""
    face = MODULES.get(f"{package}.{layer}")
    if face is None:
        return " ".join(sorted(PACKAGES[package][layer].members - {"__main__"}))
    said = ast.get_docstring(tree_of(face))
    assert said is not None
    return said.splitlines()[0].partition(". ")[0].rstrip(".")


def direct(name: str, needs: dict[str, set[str]]) -> set[str]:
    """The layers that a layer imports, without those that one of these imports anyway."""
    return needs[name].difference(*(reach(other, needs) for other in needs[name]))


def reach(name: str, needs: dict[str, set[str]]) -> set[str]:
    """All layers below a layer, directly or not."""
    return needs[name].union(*(reach(other, needs) for other in needs[name]))


def with_picture(text: str) -> str:
    """The document with the picture as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, found, after = rest.partition(END)
    assert found, f"{DOCUMENT}: has no place for the picture"
    return f"{before}{BEGIN}{picture()}{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(with_picture(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")

"""Imports go one way and each heavy package has one home, as the files themselves say."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
FILES = sorted(path for package in ("trainer", "sweep") for path in (PROJECT / package).rglob("*.py"))
HOMES = {
    "optuna": {"sweep/reporting/search_figures.py", "sweep/search/samplers.py", "sweep/search/study.py"},
    "plotly": {
        "sweep/reporting/figure_style.py",
        "sweep/reporting/html_report.py",
        "sweep/reporting/search_figures.py",
        "sweep/reporting/trial_figures.py",
    },
    "mlflow": {"sweep/tracking/mlflow_client.py", "sweep/tracking/model_registry.py"},
    "ray": {
        "sweep/driver/prometheus.py",
        "sweep/execution/node_setup.py",
        "sweep/execution/ray_session.py",
        "sweep/execution/trial_worker.py",
        "sweep/execution/tune_executor.py",
    },
    "pyarrow": {"sweep/storage/remote_files.py"},
}
LIGHT = [
    "trainer.config",
    "trainer.landmarks",
    "trainer.settings",
    "trainer.train",
    "sweep.core.config",
    "sweep.core.search_space",
    "sweep.analysis.sweep_result",
]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, at its top, inside of functions or for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


files = pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PROJECT)) for path in FILES])


def test_the_files_were_found() -> None:
    assert {
        "trainer.engine",
        "trainer.config",
        "sweep.search.study",
        "sweep.execution.tune_executor",
        "sweep.tracking.projector",
    } <= set(MODULES)


@files
def test_the_trainer_knows_nothing_of_sweeps(path: Path) -> None:
    if path.is_relative_to(PROJECT / "trainer"):
        assert not packages(path) & {"ray", "optuna", "mlflow", "sweep"}


@files
def test_each_heavy_package_has_one_home(path: Path) -> None:
    here = path.relative_to(PROJECT).as_posix()
    for package, homes in HOMES.items():
        assert package not in packages(path) or here in homes, f"{package} belongs into {sorted(homes)}"


@pytest.mark.parametrize(
    ("package", "home"), [(package, home) for package, homes in HOMES.items() for home in sorted(homes)]
)
def test_the_homes_are_lived_in(package: str, home: str) -> None:
    assert package in packages(PROJECT / home)


@pytest.mark.parametrize(
    "name", ["config", "landmarks", "settings", "settings.schema", "errors", "cores", "run_folder"]
)
def test_settings_and_layouts_do_not_name_torch(name: str) -> None:
    assert not packages(MODULES[f"trainer.{name}"]) & {"torch", "torchvision"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_really_load_nothing_heavy(module: str) -> None:
    heavy = ("torch", "torchvision", "ray", "optuna", "mlflow")
    code = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_two_modules_import_each_other() -> None:
    edges = {(name, other) for name, path in MODULES.items() for other in imported(path) if other in MODULES}
    assert edges
    assert sorted((a, b) for a, b in edges if a < b and (b, a) in edges) == []


def test_imports_have_no_circle() -> None:
    waiting = {
        name: {other for other in imported(path) if other in MODULES and other != name}
        for name, path in MODULES.items()
    }
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, {name: sorted(needs & waiting.keys()) for name, needs in waiting.items()}


# Package of sweep -> the others that it may import: what lies below it. All may import core and the trainer.
LAYERS = {
    "core": set(),
    "storage": set(),
    "search": {"storage"},
    "execution": {"storage"},
    "tracking": {"storage"},
    "analysis": {"search", "storage"},
    "simulation": {"analysis", "search", "storage"},
    "reporting": {"analysis", "search", "storage"},
    "driver": {"reporting", "simulation", "analysis", "search", "execution", "tracking", "storage"},
}


def package_of(module: str) -> str:
    """Such as core; '' for the commands and other files at the top of sweep."""
    first, *rest = module.split(".")
    return rest[0] if first == "sweep" and rest and rest[0] in LAYERS else ""


def test_every_package_of_sweep_has_its_layer() -> None:
    assert {path.name for path in (PROJECT / "sweep").iterdir() if (path / "__init__.py").exists()} == set(LAYERS)


@files
def test_packages_import_only_what_lies_below_them(path: Path) -> None:
    own = package_of(module_of(path))
    if not own:
        return
    allowed = {own, "core"} | LAYERS[own]
    reached = {name for name in imported(path) if name.split(".")[0] == "sweep" and package_of(name) not in allowed}
    assert not reached, f"{own} may import {sorted(allowed)}"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module_of)
def test_packages_import_nothing_heavy(path: Path) -> None:
    assert not packages(path) & {"torch", "torchvision", *HOMES}

"""Imports go one way and each heavy package has one home, as the files themselves say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from layers import (
    DOCUMENT,
    FILES,
    MODULES,
    PACKAGES,
    PROJECT,
    imported,
    layers_of,
    module_of,
    reached,
    tree_of,
    with_picture,
)

HOMES = {
    "optuna": {"sweep/reporting/search_figures.py", "sweep/search/sampling/sampler.py", "sweep/search/study.py"},
    "plotly": {
        "sweep/reporting/figure_style.py",
        "sweep/reporting/html_report.py",
        "sweep/reporting/search_figures.py",
        "sweep/reporting/trial_figures.py",
    },
    "mlflow": {"sweep/tracking/mlflow_client.py", "sweep/tracking/model_registry.py"},
    "ray": {
        "sweep/driver/prometheus.py",
        "sweep/execution/epoch_progress.py",
        "sweep/execution/node_setup.py",
        "sweep/execution/ray_private.py",
        "sweep/execution/ray_session.py",
        "sweep/execution/ray_start.py",
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
    "trainer.errors",
    "trainer.run_folder",
    "sweep.core.config",
    "sweep.core.errors",
    "sweep.core.search_space",
    "sweep.driver.command_line",
    "sweep.analysis.sweep_result",
]


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


@files
def test_a_package_takes_the_section_of_the_config_that_is_its_own(path: Path) -> None:
    knows_the_whole = {"sweep.core", "sweep.driver", "sweep.analysis.sweep_result", "sweep.simulation.foreign_sweep"}
    module = module_of(path)
    command = path.parent == PROJECT / "sweep"
    if not command and not any(f"{module}.".startswith(f"{name}.") for name in knows_the_whole):
        named = {node.id for node in ast.walk(tree_of(path)) if isinstance(node, ast.Name)}
        assert "SweepConfig" not in named


@files
def test_one_file_knows_the_private_parts_of_ray(path: Path) -> None:
    private = re.compile(r"ray\.(.*\._|_|experimental\b|tune\.execution\b)")
    here = path.relative_to(PROJECT).as_posix() == "sweep/execution/ray_private.py"
    assert any(map(private.match, imported(path))) == here


@files
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@files
def test_no_private_name_crosses_files(path: Path) -> None:
    tree = tree_of(path)
    own = [
        n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and f"{n.module}.".startswith(("sweep.", "trainer."))
    ]
    names = [(node.module, alias) for node in own for alias in node.names]
    modules = {alias.asname or alias.name for module, alias in names if f"{module}.{alias.name}" in MODULES}
    taken = [f"{module}.{alias.name}" for module, alias in names if alias.name.startswith("_")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            taken += [f"{node.value.id}.{node.attr}"] * (node.attr.startswith("_") and not node.attr.startswith("__"))
    assert not taken


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


@files
def test_layers_import_only_what_lies_below_them(path: Path) -> None:
    module = module_of(path)
    layers = PACKAGES[module.partition(".")[0]]
    if module in PACKAGES:  # the face of a package, above all of it
        return
    (own,) = layers_of(module)
    allowed = {own} | layers[own].below
    climbs = {name: above for name, above in reached(path).items() if not above <= allowed}
    assert not climbs, f"{own} may import {sorted(allowed)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_layers_lie_one_above_the_other(package: str) -> None:
    above: set[str] = set()
    for name, layer in PACKAGES[package].items():
        assert layer.below <= above, f"{name} names a layer that does not lie below it"
        above.add(name)


def test_every_member_of_a_layer_is_there() -> None:
    for package, layers in PACKAGES.items():
        there = {path.stem for path in (PROJECT / package).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert {member for layer in layers.values() for member in layer.members} | {"__init__"} == there - {
            "__pycache__"
        }


def test_the_three_that_decide_run_and_show_do_not_know_each_other() -> None:
    for name in ("search", "execution", "tracking"):
        assert PACKAGES["sweep"][name].below == {"core", "storage"}


@pytest.mark.parametrize("folder", sorted(path for path in (PROJECT / "sweep").iterdir() if path.is_dir()))
def test_a_package_can_be_seen_at_a_glance(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= 14


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_the_files_that_the_docs_name_are_there(document: str) -> None:
    text = (PROJECT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:sweep|trainer|tests|benchmarks|docs)/[\w./]+)`", text))
    assert named
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


def test_the_picture_in_the_docs_is_that_of_the_imports() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == with_picture(text), "draw it anew: python tests/layers.py"


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module_of)
def test_packages_import_nothing_heavy(path: Path) -> None:
    assert not packages(path) & {"torch", "torchvision", *HOMES}

"""The project as others have it: from a wheel, in a folder of their own, which may hold a sweep.py and a trainer.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from harness import CALM
from prepared import teach_sweep
from waiting import PATIENCE

PROJECT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def call(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        words, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without the libraries."""
    folder = tmp_path_factory.mktemp("installed")
    pip, quiet = (sys.executable, "-m", "pip"), ("--quiet", "--no-deps", "--disable-pip-version-check")
    built = call(*pip, "wheel", *quiet, "--no-build-isolation", "--wheel-dir", str(folder), str(PROJECT), cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    done = call(*pip, "install", *quiet, "--target", str(folder / "site"), str(wheel), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_the_recipes_travel_with_the_package(site: Path, tmp_path: Path) -> None:
    listed = call(sys.executable, "-m", "sweep.recipes", cwd=tmp_path, PYTHONPATH=str(site))
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.startswith("demo ")
    written = call(sys.executable, "-m", "sweep.recipes", "ytf68", cwd=tmp_path, PYTHONPATH=str(site))
    assert written.returncode == 0, written.stderr
    code = "from sweep.core.config_file import DEMO, load_sweep; print(DEMO, load_sweep(None, {}).name)"
    found = call(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert found.stdout == f"{site / 'sweep' / 'configs' / 'sweep' / 'demo.yaml'} demo\n"
    assert [path.name for path in tmp_path.iterdir()] == ["ytf68.yaml"]


def test_starsweep_runs_in_a_folder_with_files_of_the_same_names(site: Path, tmp_path: Path) -> None:
    for name in ("sweep.py", "trainer.py"):
        (tmp_path / name).write_text("raise SystemExit('my own script runs instead')\n")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CALM | {"trials": 1}))
    teach_sweep([str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "outputs")], tmp_path / "cache")
    starsweep = str(site / "bin" / "starsweep")
    environment = {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ended = call(sys.executable, starsweep, "run", "mine.yaml", cwd=tmp_path, **environment)
    assert ended.returncode == 0, ended.stderr
    assert f"rerun the best:     {starsweep} rerun outputs/mine\n" in ended.stdout
    assert "my own script" not in ended.stdout + ended.stderr
    again = call(sys.executable, starsweep, "report", "outputs/mine", cwd=tmp_path, **environment)
    assert again.returncode == 0, again.stderr

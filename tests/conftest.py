"""What every test may use."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Several tests share the cores: threads that wait for each other leave them to who has something to do. Before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from filelock import FileLock

if TYPE_CHECKING:
    from harness import Sweep


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: else one worker has them to do when the others are through."""
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU, and torch finds none on this machine"))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sweep, subprocess.CompletedProcess]:
    """A sweep that nothing disturbs and what it printed, run once for all tests, which only look at it."""
    from harness import Sweep

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder  # that of all workers
    ended = folder / "calm.json"
    with FileLock(folder / "calm.lock"):
        sweep = Sweep(folder / "calm", as_new=True)
        if not ended.exists():
            done = sweep.run()
            ended.write_text(json.dumps([done.args, done.returncode, done.stdout, done.stderr]))
    return sweep, subprocess.CompletedProcess(*json.loads(ended.read_text()))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real faces (ytf68, wflw_sample); tests that need it skip without."""
    folder = os.environ.get("STARSWEEP_TEST_DATA")
    if not folder:
        pytest.skip("STARSWEEP_TEST_DATA is not set: no real faces to test on")
    return Path(folder).resolve()

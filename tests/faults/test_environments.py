"""A sweep starts where not all is as on the machine that it was made on."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import CALM, Sweep

from sweep.storage.event_log import EventKind

pytestmark = pytest.mark.slow

ONE_CORE = str(Path(__file__).with_name("one_core.py"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_job_of_one_core_with_a_long_folder_and_no_home(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "s", settings=CALM | {"trials": 3, "slots": None})
    long = tmp_path / ("job_" * 20)
    long.mkdir()
    surroundings = {
        "TMPDIR": str(long),  # too long for Ray's sockets
        "HOME": "/proc/nohome",  # where also root cannot write
        "WORLD_SIZE": "8",  # of a launcher that has not started this process
        "RANK": "0",
        "http_proxy": "http://127.0.0.1:9",  # where nobody listens
        "MLFLOW_EXPERIMENT_ID": "7",
    }
    dry = sweep.run("--dry-run", program=(ONE_CORE,), **surroundings)
    assert dry.returncode == 0, dry.stderr
    assert "1 CPUs, 0 GPUs a trial; 1 at once" in dry.stdout
    ended = sweep.run(program=(ONE_CORE,), **surroundings)
    assert ended.returncode == 0, ended.stderr
    for name in ("WORLD_SIZE", "MLFLOW_EXPERIMENT_ID"):
        assert ended.stderr.count(f"{name} is set, but ") == 1
    sweep.check(trials=3)
    (started,) = [event for event in sweep.events() if event.kind is EventKind.SWEEP_STARTED]
    assert f"1 of {os.cpu_count()} CPUs" in started.data["tags"]["machine"]
    running: set[int] = set()
    for event in sweep.events():  # one at a time, since there is one core
        if event.kind is EventKind.TRIAL_STARTED:
            assert not running
            running.add(event.trial)
        elif event.kind is EventKind.TRIAL_ENDED:
            running.discard(event.trial)


class Container:
    """A small container: all but one folder is read-only, /dev/shm has 64 MB, a process may open 256 files.

    Args:
        folder: that can be written to, besides the temporary folder.
    """

    def __init__(self, folder: Path) -> None:
        mounts = [
            f"mount --bind {folder} {folder}",
            "mount --bind /tmp /tmp",
            "mount -t tmpfs -o size=64m tmpfs /dev/shm",
            "mount -o remount,ro,bind /",
            "ulimit -n 256",
        ]
        self._enter = " && ".join(mounts)

    def prefix(self, folder: Path) -> list[str]:
        """The words before a command that make it run there."""
        return ["unshare", "--mount", "sh", "-c", f'{self._enter} && cd {folder} && exec "$@"', "sh"]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    container = Container(tmp_path)
    if not shutil.which("unshare") or subprocess.run([*container.prefix(tmp_path), "true"]).returncode:
        pytest.skip("this user may not make mounts of its own")
    return container


def test_a_container_that_is_read_only_and_short_of_everything(tmp_path: Path, container: Container) -> None:
    sweep = Sweep(tmp_path / "s", settings=CALM | {"trials": 3}, machine=container)
    ended = sweep.run(HOME="/root", XDG_CACHE_HOME="/nowhere/to/write")
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "matplotlib" not in ended.stdout + ended.stderr
    sweep.check(trials=3)
    refused = sweep.run("--output", "/etc/starsweep")
    assert refused.returncode == 2
    assert "output = '/etc/starsweep/faces': cannot be written to (Read-only file system)" in refused.stderr
    assert "Traceback" not in refused.stderr

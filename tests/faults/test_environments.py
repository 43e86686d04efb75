"""A sweep starts where not all is as on the machine that it was made on."""

from __future__ import annotations

import os
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

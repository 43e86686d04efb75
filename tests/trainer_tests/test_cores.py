"""Cores and memory are those that this process may use, by whatever way a part of the machine was given to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import cores

PROJECT = Path(__file__).parents[2]
GIB = 1 << 30


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 8 cores and 64 GiB, without limits; the folder of its control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "_machine_memory", lambda: [64 * GIB])
    monkeypatch.setattr(cores, "_CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "_OWN_CGROUPS", tmp_path / "own")
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def test_without_limits_the_whole_machine_is_used(machine: Path) -> None:
    assert (cores.available_cores(), cores.available_memory()) == (8, 64 * GIB)


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_a_quota_of_a_container_is_obeyed(machine: Path, quota: str, count: int) -> None:
    write(machine / "own", "0::/")
    write(machine / "cpu.max", quota)
    write(machine / "memory.max", "max")
    assert (cores.available_cores(), cores.available_memory()) == (count, 64 * GIB)


def test_the_narrowest_group_above_counts(machine: Path) -> None:
    write(machine / "own", "0::/user.slice/job.scope")
    write(machine / "cpu.max", "max 100000")
    write(machine / "user.slice" / "cpu.max", "300000 100000")
    write(machine / "user.slice" / "memory.max", str(16 * GIB))
    write(machine / "user.slice" / "job.scope" / "cpu.max", "400000 100000")
    write(machine / "user.slice" / "job.scope" / "memory.max", str(20 * GIB))
    assert (cores.available_cores(), cores.available_memory()) == (3, 16 * GIB)


def test_groups_of_the_first_version_count_too(machine: Path) -> None:
    write(machine / "own", "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x")
    for group in (machine / "cpu,cpuacct", machine / "cpu,cpuacct" / "docker" / "x"):
        write(group / "cpu.cfs_period_us", "100000")
    write(machine / "cpu,cpuacct" / "cpu.cfs_quota_us", "-1")
    write(machine / "cpu,cpuacct" / "docker" / "x" / "cpu.cfs_quota_us", "150000")
    write(machine / "memory" / "memory.limit_in_bytes", "9223372036854771712")  # none
    write(machine / "memory" / "docker" / "x" / "memory.limit_in_bytes", str(2 * GIB))
    assert (cores.available_cores(), cores.available_memory()) == (1, 2 * GIB)


def test_a_container_that_does_not_see_its_group_sees_its_root(machine: Path) -> None:
    write(machine / "own", "0::/kubepods/pod1")
    write(machine / "cpu.max", "200000 100000")
    assert cores.available_cores() == 2


@pytest.mark.parametrize(
    ("variables", "count", "memory"),
    [
        ({"SLURM_CPUS_ON_NODE": "4"}, 4, 64),
        ({"SLURM_CPUS_ON_NODE": "16"}, 8, 64),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 4, 64),  # the batch script has them all
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "2", "SLURM_STEP_ID": "0"}, 2, 64),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_STEP_ID": "0"}, 4, 64),
        ({"SLURM_CPUS_ON_NODE": "4", "SLURM_MEM_PER_CPU": "2048"}, 4, 8),
        ({"SLURM_MEM_PER_NODE": "4096"}, 8, 4),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_CPUS_ON_NODE": ""}, 8, 64),
    ],
)
def test_what_slurm_has_given_is_obeyed(
    machine: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int, memory: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (cores.available_cores(), cores.available_memory()) == (count, memory * GIB)


def test_this_machine_tells_what_it_has() -> None:
    memory = cores.available_memory()
    assert 1 <= cores.available_cores() <= (os.cpu_count() or 1)
    assert memory is None or memory > 100 << 20


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_an_affinity_is_obeyed() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from trainer import cores; "
    code += "print(cores.available_cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(("count", "told"), [("8", True), ("", False), ("1", False), ("many", True), (None, False)])
def test_who_is_not_started_by_torchrun_trains_alone_and_says_so(
    monkeypatch: pytest.MonkeyPatch, count: str | None, told: bool
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if count is not None:
        monkeypatch.setenv("WORLD_SIZE", count)
    assert cores.processes() == 1
    line = cores.lone_of_many()
    assert (line is not None) == told
    assert line is None or f"WORLD_SIZE={count} " in line

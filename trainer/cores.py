"""The processor cores and the memory that this process may use, which may be fewer and less than the machine has.

Whoever gave it a part of a machine may have done so by an affinity (taskset, SLURM, Kubernetes' static policy), by
control groups (docker, Kubernetes, systemd), or only in SLURM's variables; the narrowest holds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_cores() -> int:
    """Number of CPU cores that this process may use, at least 1; of a quota of 2.5 cores, 2."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([cores, *_cgroup_cores(), *_slurm_cores()])))


def available_memory() -> int | None:
    """Bytes of memory that this process may use; None where the system does not tell."""
    return min([*_machine_memory(), *_cgroup_memory(), *_slurm_memory()], default=None)


def processes() -> int:
    """Number of processes that torchrun has started for one run, on all machines; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def lone_of_many() -> str | None:
    """Why this process trains alone although its environment speaks of several; None where it does not.

    Launchers and images of clusters set WORLD_SIZE for every process, also for one that was started by itself and would
    wait for the others for ever.
    """
    count = os.environ.get("WORLD_SIZE", "")
    if "TORCHELASTIC_RUN_ID" in os.environ or count in ("", "1"):
        return None
    return f"WORLD_SIZE={count} is not obeyed: this process was not started by torchrun, so it trains alone"


def cores_per_process() -> int:
    """Number of CPU cores for each of the processes that train one run on this machine, as torchrun counts them."""
    local = int(os.environ["LOCAL_WORLD_SIZE"]) if processes() > 1 else 1
    return max(1, available_cores() // local)


def _cgroup_cores() -> list[float]:
    """The quotas of the control groups that this process is in."""
    quotas = [words for words in _of_cgroups("", "cpu.max") if words[0] != "max"]
    v1 = zip(_of_cgroups("cpu", "cpu.cfs_quota_us"), _of_cgroups("cpu", "cpu.cfs_period_us"), strict=False)
    quotas += [[quota[0], period[0]] for quota, period in v1 if quota[0] != "-1"]
    return [int(quota) / int(period) for quota, period in quotas]


def _cgroup_memory() -> list[int]:
    words = [*_of_cgroups("", "memory.max"), *_of_cgroups("memory", "memory.limit_in_bytes")]
    return [int(limit[0]) for limit in words if limit[0] != "max"]


def _of_cgroups(controller: str, name: str) -> Iterator[list[str]]:
    """The words of a file of each control group that this process is in, from its own upwards.

    Args:
        controller: of version 1; empty for version 2.
        name: of the file.
    """
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for group in (Path(path), *Path(path).parents):  # of a container, only the last may be seen from inside
            file = _CGROUPS / controllers / group.relative_to("/") / name
            if file.is_file() and (words := file.read_text().split()):
                yield words


def _slurm_cores() -> list[int]:
    """The cores of this step's task, else of the job on this machine; none outside of SLURM."""
    per_task = _slurm("SLURM_CPUS_PER_TASK") if "SLURM_STEP_ID" in os.environ else []
    return per_task or _slurm("SLURM_CPUS_ON_NODE")


def _slurm_memory() -> list[int]:
    """The memory of the job on this machine, in bytes, which SLURM tells in megabytes; none outside of SLURM."""
    per_core = [each * cores for each in _slurm("SLURM_MEM_PER_CPU") for cores in _slurm_cores()]
    return [megabytes << 20 for megabytes in _slurm("SLURM_MEM_PER_NODE") or per_core]


def _slurm(name: str) -> list[int]:
    """The number that a variable holds; none where it holds none, or 0 for all there is."""
    text = os.environ.get(name, "")
    return [int(text)] if text.isdigit() and int(text) else []


def _machine_memory() -> list[int]:
    if sys.platform == "win32":
        return []
    try:
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError):
        return []

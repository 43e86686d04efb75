"""The processor cores that this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS and Windows have none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processes() -> int:
    """Number of processes that torchrun has started for one run, on all machines; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def cores_per_process() -> int:
    """Number of CPU cores for each of the processes that train one run on this machine, as torchrun counts them."""
    return max(1, available_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))

"""A Ray cluster of many nodes on this one machine, each with processes of its own and a share of pretended CPUs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_SHUTDOWN = 60.0  # seconds
_RESERVE = 2e9  # bytes that others need
_NODE = 250e6  # bytes of a node's own processes
_WORKER = 75e6  # bytes of a light worker
_LEAN = {  # sixteen nodes on one machine must not spend it on watching themselves
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "false",
    "MALLOC_ARENA_MAX": "1",
}


def shares(slots: int, nodes: int) -> list[int]:
    """How many CPUs each node has, so that these are so many in all."""
    return [slots * (i + 1) // nodes - slots * i // nodes for i in range(nodes)]


def room(nodes: int) -> int:
    """How many slots so many nodes may have here: a machine out of memory stands still for all who use it."""
    found = re.findall(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    return max(1, int((1024 * int(found[0]) - _RESERVE - nodes * _NODE) / _WORKER))


@contextlib.contextmanager
def cluster(nodes: int, slots: int) -> Iterator[str]:
    """Starts a head without CPUs and so many nodes in a process of its own; all of it ends with this, or with us.

    Yields:
        The address for `ray_address`.
    """
    words = [sys.executable, "-m", "benchmarks.nodes", *map(str, shares(slots, nodes))]
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | _LEAN,
        cwd=Path(__file__).parents[1],
        start_new_session=True,  # Ctrl-C is for us, who then end it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RuntimeError("the cluster did not start")
        yield address
    finally:
        process.stdin.close()
        try:
            process.wait(_SHUTDOWN)
        except subprocess.TimeoutExpired:
            process.kill()  # Ray's reapers end what it leaves


def serve(cpus: Sequence[int]) -> None:
    """Holds the cluster for as long as somebody holds our standard input."""
    from ray.cluster_utils import Cluster

    store = 80_000_000  # bytes; trials that do nothing put nothing there
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": store},
    )
    try:
        for count in cpus:
            found.add_node(num_cpus=count, object_store_memory=store)
        print(found.address, flush=True)
        sys.stdin.read()
    finally:
        found.shutdown()


if __name__ == "__main__":
    serve([int(word) for word in sys.argv[1:]])

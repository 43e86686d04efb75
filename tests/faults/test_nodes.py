"""A machine of a Ray cluster dies. Two nodes on this machine, with all processes of real ones.

The same with machines of their own is in test_cluster.py; this is what a computer without namespaces can still try.
"""

import pytest
from harness import CALM, TINY, Sweep
from ray.cluster_utils import Cluster
from waiting import PATIENCE, wait_for

from sweep.storage.event_log import EventKind

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield cluster
    cluster.shutdown()


def test_the_trials_of_a_node_that_dies_go_on_elsewhere_from_their_checkpoints(tmp_path, cluster):
    other = cluster.add_node(num_cpus=1)
    settings = CALM | {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
        "known": [],
        "pruner": {"name": "none"},
        "trials": 3,
        "slots": 2,
        "train": TINY
        | {
            "optim": {"epochs": 12, "batch_size": 8},
            "run": TINY["run"] | {"checkpoint_seconds": 0},
        },
    }
    sweep = Sweep(tmp_path / "home", settings=settings)
    log = sweep.folder / "events.jsonl"
    with sweep.start("--ray_address", cluster.address) as process:
        both = {(0, 4), (1, 4)}
        wait_for(lambda: log.exists() and both <= set(sweep.reports()), "four epochs of both trials")
        cluster.remove_node(other, allow_graceful=False)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    again = [e for e in sweep.events() if e.kind is EventKind.TRIAL_STARTED and "attempt" in e.data]
    assert len(again) == 1
    moved = again[0].trial
    last = max(e.data["step"] for e in sweep.events() if e.trial == moved and e.kind is EventKind.REPORT)
    assert last == 12
    told = " ".join(out.split())
    assert "starts again: the machine that it ran on died, or cannot be reached" in told or "its worker died" in told
    assert set(sweep.states().values()) == {"COMPLETE"}
    assert "Traceback" not in out + err
    sweep.check(trials=3)

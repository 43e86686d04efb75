"""A cluster whose machines share a network and the output folder only; the driver's machine trains nothing.

Machines die, are cut off, join late; the head dies. See `cluster` for what a machine is here.
"""

import contextlib
import re
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cluster import Machine, NetworkCluster, missing
from harness import CALM, TINY, Sweep, rows
from waiting import PATIENCE, wait_for

from sweep.storage.event_log import EventKind

pytestmark = [pytest.mark.slow, pytest.mark.long]

TRAIN = TINY | {
    "optim": {"epochs": 8, "batch_size": 8},
    "run": TINY["run"] | {"checkpoint_seconds": 0},
}
SETTINGS = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
    "known": [],
    "pruner": {"name": "none"},
    "slots": 2,
    "train": TRAIN,
}

LOST_SOON = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}  # of the driver with the head; without it, a minute


@pytest.fixture(scope="module")
def cluster():
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="s-") as folder, NetworkCluster(Path(folder)) as cluster:
        yield cluster


@pytest.fixture
def begin(cluster, tmp_path):
    """Starts a sweep on two nodes, from a machine outside, and waits until trials 0 and 1 are in the middle."""
    while len(cluster.nodes) < 2:
        cluster.add_node()

    @contextlib.contextmanager
    def begin(**settings):
        sweep = Sweep(tmp_path / "home", settings=SETTINGS | settings, machine=cluster.add_machine())
        with sweep.start("--ray_address", cluster.ray_address, **LOST_SOON) as process:
            try:
                log, both = sweep.folder / "events.jsonl", {(0, 2), (1, 2)}
                try:
                    wait_for(lambda: log.exists() and both <= set(sweep.reports()), "two epochs of both trials")
                except AssertionError as error:
                    sweep.machine.kill()
                    said = "".join(process.communicate(timeout=PATIENCE))
                    raise AssertionError(f"{error}; the driver said:\n{said}") from None
                yield sweep, process
            finally:
                sweep.machine.kill()

    return begin


def where(sweep: Sweep, number: int) -> list[str]:
    """Addresses of the machines that a trial was begun on, one after the other."""
    path = sweep.folder / "trials" / f"{number:04d}" / "trial.log"
    return re.findall(rf"trial {number} at (\S+),", path.read_text()) if path.exists() else []


def latest(sweep: Sweep) -> dict[str, int]:
    """Trials by the address of the machine that they were begun on last."""
    numbers = sorted(int(folder.name) for folder in sweep.folder.glob("trials/*"))
    return {places[-1]: number for number in numbers if (places := where(sweep, number))}


def check_that_it_moved(sweep: Sweep, number: int, machine: Machine) -> None:
    """Away from this machine, with its checkpoint: the epochs before are those that were reported from there."""
    first, *others = where(sweep, number)
    assert first == machine.address
    assert others
    assert first not in others
    told = [e.data["metrics"] for e in sweep.events() if e.trial == number and e.kind is EventKind.REPORT]
    kept = rows(sweep.folder / "trials" / f"{number:04d}")
    assert [row["epoch_seconds"] for row in kept] == [row["epoch_seconds"] for row in told]


def finish(process: subprocess.Popen) -> str:
    """Waits for the end, which must be a good one, and gives what was printed, in one line."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    assert "Traceback" not in out + err
    return " ".join(out.split())


def test_trials_of_a_machine_that_dies_go_on_elsewhere_and_one_that_joins_late_is_used(cluster, begin):
    lost, other = cluster.nodes
    with begin(trials=4) as (sweep, process):
        assert set(latest(sweep)) == {lost.address, other.address}
        moved = latest(sweep)[lost.address]
        lost.kill()
        late = cluster.add_node()
        joined = time.monotonic()
        wait_for(lambda: late.address in latest(sweep), "a trial on the machine that joined late")
        print(f"a machine that joined had a trial after {time.monotonic() - joined:.1f} s")
        told = finish(process)
    assert f"trial {moved} starts again: the machine that it ran on died, or cannot be reached" in told
    assert set(sweep.states().values()) == {"COMPLETE"}
    check_that_it_moved(sweep, moved, lost)
    sweep.check(trials=4)


def test_a_machine_that_is_cut_off_loses_its_trial_and_harms_nothing_when_it_is_back(cluster, begin):
    lost, _ = cluster.nodes
    with begin(trials=2) as (sweep, process):
        moved = latest(sweep)[lost.address]
        lost.cut_off()
        assert lost.processes("ray::ImplicitFunc")  # it knows nothing of that
        told = finish(process)
    assert f"trial {moved} starts again: the machine that it ran on died, or cannot be reached" in told
    before = contents(sweep)
    lost.reconnect()
    wait_for(lambda: not lost.processes("ray::ImplicitFunc"), "the end of the worker that nobody waits for")
    assert contents(sweep) == before
    assert set(sweep.states().values()) == {"COMPLETE"}
    check_that_it_moved(sweep, moved, lost)
    sweep.check(trials=2)


def contents(sweep: Sweep) -> dict[Path, bytes]:
    """All that the trials left."""
    return {path: path.read_bytes() for path in sweep.folder.glob("trials/*/*")}


def test_a_sweep_whose_head_is_gone_ends_and_goes_on_with_another(cluster, begin):
    with begin(trials=3) as (sweep, process):
        cluster.head.kill()
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, out + err
        told = " ".join((out + err).split())
        assert f"the head of the cluster, {cluster.ray_address}, is gone" in told
        assert "the same command goes on with the sweep" in told
        assert "Traceback" not in told
        sweep.wait_until_gone()
        assert set(sweep.reports().values()) == {1}
        assert {trial.number for trial in sweep.study().trials} == {0, 1}
        cluster.restart()
        done = sweep.run("--ray_address", cluster.ray_address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(sweep.states().values()) == {"COMPLETE"}
    sweep.check(trials=3)

"""What goes wrong inside of a trial: it ends with the reason, the others and the sweep go on."""

import contextlib
import os
import signal
import uuid
from pathlib import Path

import pytest
from harness import CALM, TINY, Sweep
from waiting import PATIENCE, wait_for

from sweep.storage.event_log import EventKind

pytestmark = pytest.mark.slow

QUIET = CALM | {"pruner": {"name": "none"}, "known": [], "keep": 1}
RATES = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}
MEMORY = Path("/sys/fs/cgroup/memory")  # version 1 of the kernel's control groups


def owner(sweep: Sweep, trial: int) -> int | None:
    """Process that trains the trial now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int((sweep.folder / "trials" / f"{trial:04d}" / "worker.pid").read_text().split()[1])
    return None


def starts(sweep: Sweep, trial: int) -> list[int | None]:
    started = [e for e in sweep.events() if e.kind is EventKind.TRIAL_STARTED and e.trial == trial]
    return [e.data.get("attempt") for e in started]


def end(sweep: Sweep, trial: int) -> tuple[str, str]:
    found = next(e for e in sweep.events() if e.kind is EventKind.TRIAL_ENDED and e.trial == trial)
    return found.data["state"], found.data["reason"]


def epochs(number: int, **more) -> dict:
    return TINY | {"optim": {"epochs": number, "batch_size": 8}} | more


@pytest.mark.long
def test_a_worker_that_is_killed_three_times_fails_its_trial_and_no_other(tmp_path):
    run = TINY["run"] | {"checkpoint_seconds": 0}
    sweep = Sweep(
        tmp_path / "home",
        settings=QUIET
        | {"space": RATES, "trials": 4, "slots": 2, "resources": {"cpus": 0.5}, "train": epochs(12, run=run)},
    )
    with sweep.start() as process:
        killed: set[int | None] = {None}
        for kill in range(3):
            reached = 2 * (kill + 1)  # two epochs further each time, from the checkpoint
            wait_for(lambda epoch=reached: (0, epoch) in reports(sweep), f"epoch {reached} of trial 0")
            wait_for(lambda: owner(sweep, 0) not in killed, "a new worker")
            killed.add(pid := owner(sweep, 0))
            os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert starts(sweep, 0) == [None, 1, 2]
    state, reason = end(sweep, 0)
    assert state == "FAILED"
    assert reason.startswith("its worker died: killed by a signal")
    assert 6 <= len(sweep.study().trials[0].intermediate_values) < 12
    assert {sweep.states()[n] for n in (1, 2, 3)} == {"COMPLETE"}
    assert all(starts(sweep, n) == [None] for n in (1, 2, 3))
    assert "raylet" not in out + err
    sweep.check(trials=4)


def reports(sweep: Sweep) -> set:
    return set(sweep.reports()) if (sweep.folder / "events.jsonl").exists() else set()


class MemoryGroup:
    """A control group of the kernel with memory of its own; whoever runs in it sees no other.

    Args:
        limit: bytes, for all its processes together.
    """

    def __init__(self, limit: int) -> None:
        self.folder = MEMORY / f"starsweep-test-{uuid.uuid4().hex[:8]}"
        self.folder.mkdir()
        (self.folder / "memory.limit_in_bytes").write_text(str(limit))

    def prefix(self, _: Path) -> list[str]:
        """The words before a command that make it run in this group."""
        enter = 'mount --bind "$0" "$1" && echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", enter, str(self.folder), str(MEMORY)]

    def add(self, process: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(process))

    def kills(self) -> int:
        """How many processes the kernel has ended for want of memory here."""
        lines = (self.folder / "memory.oom_control").read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])

    def remove(self) -> None:
        wait_for(lambda: not (self.folder / "cgroup.procs").read_text(), "no process left in the group")
        self.folder.rmdir()


@pytest.fixture
def group():
    """Ten gigabytes."""
    if not os.access(MEMORY, os.W_OK):
        pytest.skip("no control groups (version 1) to limit memory with")
    group = MemoryGroup(10 * 2**30)
    yield group
    group.remove()


def test_a_trial_that_needs_more_memory_than_there_is_fails_and_the_slot_goes_on(tmp_path, group):
    sweep = greedy(tmp_path / "home", machine=group)
    ended = sweep.run(RAY_memory_usage_threshold="0.4", RAY_memory_monitor_refresh_ms="50")
    assert ended.returncode == 0, ended.stderr
    assert end(sweep, 0)[0] == "FAILED"
    assert "out of memory: Ray ended its worker" in end(sweep, 0)[1]
    assert group.kills() == 0
    assert sweep.states()[1] == "COMPLETE"
    sweep.check(trials=2)


@pytest.mark.long
def test_a_trial_that_the_kernel_kills_for_its_memory_fails_and_the_slot_goes_on(tmp_path, group):
    sweep = greedy(tmp_path / "home")
    with sweep.start() as process:
        wait_for(lambda: owner(sweep, 0), "a worker")
        group.add(owner(sweep, 0))
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert group.kills() == 1
    assert end(sweep, 0)[0] == "FAILED"
    assert "the kernel (out of memory?)" in end(sweep, 0)[1]
    assert sweep.states()[1] == "COMPLETE"
    sweep.check(trials=2)


def greedy(home: Path, machine: MemoryGroup | None = None) -> Sweep:
    """Two trials; a step of the first needs more than 12 GB."""
    settings = {
        "space": {"data.image_size": {"choice": [32, 384]}},
        "known": [{"data.image_size": 384}, {"data.image_size": 32}],
        "trials": 2,
        "retries": 0,
        "train": TINY | {"data": TINY["data"] | {"train_faces": 256}, "optim": {"epochs": 1, "batch_size": 256}},
    }
    return Sweep(home, settings=QUIET | settings, machine=machine)


@pytest.mark.long
def test_a_trial_that_hangs_is_given_up_after_its_timeout_and_the_slot_goes_on(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=QUIET | {"space": RATES, "trials": 2, "train": epochs(40)})
    with sweep.start("--timeout_minutes", "0.3", "--retries", "1") as process:
        stopped: set[int | None] = {None}
        for attempt in range(2):
            wait_for(lambda: owner(sweep, 0) not in stopped, f"a worker for attempt {attempt + 1}")
            wait_for(lambda: (0, 1) in reports(sweep), "an epoch of trial 0")
            stopped.add(pid := owner(sweep, 0))
            os.kill(pid, signal.SIGSTOP)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert end(sweep, 0) == ("FAILED", "no report for 0.3 minutes (timeout_minutes)")
    assert starts(sweep, 0) == [None, 1]
    assert sweep.states()[1] == "COMPLETE"
    assert "Traceback" not in out + err
    sweep.wait_until_gone()
    sweep.check(trials=2)

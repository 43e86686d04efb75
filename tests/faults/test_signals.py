"""Sweeps that are told to stop, started twice, or met by another clock or other versions when they go on."""

import itertools
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import CALM, MARK, TINY, Sweep, call, read_until
from optuna.trial import TrialState
from waiting import PATIENCE

from sweep import run
from sweep.storage.event_log import EventKind

pytestmark = pytest.mark.slow

SETTINGS = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
    "known": [],
    "pruner": {"name": "none"},
    "trials": 2,
    "slots": 2,
    "resources": {"cpus": 0.5},
    "train": TINY | {"optim": {"epochs": 6, "batch_size": 8}},
}

KILLER = str(Path(__file__).with_name("killed_at.py"))
WHILE_IT_STARTS = [
    "seconds:0.3",
    "before:sweep.run:_run:1",
    "before:sweep.driver.session:make_ready:1",
    "before:ray:init:1",
    "after:sweep.execution.resources:Slots:1",
    "before:sweep.driver.session:_open_study:1",
    "before:sweep.execution.tune_executor:execute:1",
]


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "home", settings=SETTINGS)


def check_stopped(sweep: Sweep) -> None:
    """Stopped where it can be gone on with, told truthfully, and nothing runs any more."""
    assert sweep.events()[-1].kind is EventKind.SWEEP_ENDED
    assert sweep.events()[-1].data["state"] == "KILLED"
    assert {t.state for t in sweep.study().trials} == {TrialState.RUNNING}
    assert {run.info.status for run in sweep.runs().values()} == {"KILLED"}
    sweep.wait_until_gone()


def check_goes_on(sweep: Sweep) -> None:
    ended = sweep.run()
    assert ended.returncode == 0, ended.stderr
    assert set(sweep.states().values()) == {"COMPLETE"}
    sweep.check(trials=2)


@pytest.mark.long
def test_signals_stop_a_sweep_where_the_same_command_goes_on(sweep):
    for epoch, number in ((1, signal.SIGINT), (2, signal.SIGTERM), (3, signal.SIGHUP)):
        with sweep.start() as process:
            read_until(process, f" epoch {epoch}/6")
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, err
        assert "interrupted; go on with:  " in out
        assert "Traceback" not in out + err
        check_stopped(sweep)
    with sweep.start() as process:
        read_until(process, " epoch 4/6")
        os.killpg(process.pid, signal.SIGINT)
        os.killpg(process.pid, signal.SIGINT)  # at once
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    sweep.wait_until_gone()
    check_goes_on(sweep)


@pytest.mark.long
def test_ctrl_c_while_it_starts_leaves_nothing_that_hinders(sweep):
    for moment in WHILE_IT_STARTS:
        ended = sweep.run(program=(KILLER,), MOMENT=moment, FOLDER=str(sweep.folder), SIGNAL="SIGINT")
        if moment == WHILE_IT_STARTS[0] and ended.returncode == -signal.SIGINT:
            continue  # Python was still importing
        assert ended.returncode == 130, moment + ended.stdout + ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr, moment
        sweep.wait_until_gone()
    check_goes_on(sweep)


@pytest.mark.long
def test_a_terminal_that_is_closed_stops_it_like_ctrl_c(sweep):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep.run", *sweep.words()],
        cwd=sweep.home,
        env=os.environ | {"XDG_CACHE_HOME": str(sweep.home / "cache"), MARK: sweep.mark, "TERM": "xterm"},
        preexec_fn=lambda: os.login_tty(theirs),
        pass_fds=[theirs],
    )
    os.close(theirs)
    shown = b""
    while b"2/6" not in shown:
        shown += os.read(ours, 4096)
    os.close(ours)  # the kernel sends SIGHUP, and every further write fails
    assert process.wait(PATIENCE) == 130
    check_stopped(sweep)
    check_goes_on(sweep)


@pytest.mark.long
def test_output_that_nobody_reads_any_more_ends_nothing(sweep):
    with sweep.start() as process:
        assert process.stdout is not None
        read_until(process, " epoch 2/6")
        process.stdout.close()  # as | head -3 does
        assert process.stderr is not None
        err = process.stderr.read()
        assert process.wait(PATIENCE) == 0, err
    assert err == ""
    sweep.check(trials=2)


def test_the_second_of_two_starts_is_refused_while_the_first_lives(sweep, capsys):
    with sweep.start() as first:
        read_until(first, " epoch 1/6")
        code, _, refusal = call(run.main, capsys, *sweep.words())
        assert code == 2
        assert "name = 'faces': this sweep is running already" in refusal
        assert "Traceback" not in refusal
        _, err = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, err
    sweep.check(trials=2)


@pytest.mark.long
def test_a_machine_that_is_too_busy_for_ray_to_start_in_time_is_tried_again(sweep):
    ended = sweep.run(program=(str(Path(__file__).with_name("slow_start.py")),))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Ray was not up within half a minute" in " ".join(ended.stdout.split())
    assert "Traceback" not in ended.stdout + ended.stderr
    sweep.wait_until_gone()
    sweep.check(trials=2)


@pytest.mark.long
def test_it_goes_on_under_a_clock_that_was_set_back_and_with_other_versions(sweep):
    with sweep.start("--trials", "3", program=(str(Path(__file__).with_name("clock_set_back.py")),)) as process:
        read_until(process, " epoch 1/6")
        process.send_signal(signal.SIGUSR1)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    times = [e.time for e in sweep.events()]
    assert min(b - a for a, b in itertools.pairwise(times)) < -3000  # it was set back in the middle
    sweep.check(trials=3)

    log = sweep.folder / "events.jsonl"
    lines = log.read_text().splitlines()
    started = json.loads(lines[0])
    started["tags"] |= {"version.ray": "2.59.0", "version.optuna": "4.9.0"}
    log.write_text("\n".join([json.dumps(started), *lines[1:]]) + "\n")
    ended = sweep.run("--trials", "4")
    assert ended.returncode == 0, ended.stderr
    told = " ".join(ended.stdout.split())
    assert "goes on with other versions than before" in told
    assert "ray 2.59.0 -> " in told
    assert "optuna 4.9.0 -> " in told
    assert sorted(sweep.states()) == [0, 1, 2, 3]

"""The command that a user wants run at the end: told truthfully how it ended, never in the way, never written down."""

import os
import shutil
import signal
import uuid
from pathlib import Path

import pytest
from harness import CALM, TINY, Sweep, read_until
from waiting import PATIENCE
from written_sweeps import begun

from sweep import load
from sweep.core.config_file import load_sweep
from sweep.core.trial import State
from sweep.driver import end_hook

SECRET = f"s3cr3t-{uuid.uuid4().hex}"
SETTINGS = CALM | {
    "space": {"optim.lr": {"log_uniform": [1e-4, 1e-3]}},
    "known": [],
    "pruner": {"name": "none"},
    "trials": 1,
    "train": TINY | {"data": TINY["data"] | {"train_faces": 16}},
}
FACTS = ("NAME", "FOLDER", "STATE", "SUMMARY", "BEST_TRIAL", "BEST_NME")


def noting(path: Path, code: int = 0) -> str:
    """A shell command that holds a secret, writes what it was told, a fact a line, and ends with this exit code."""
    values = " ".join(f'"$STARSWEEP_{fact}"' for fact in FACTS)
    return f": https://hooks.example/{SECRET}; printf '%s\\n' {values} >> '{path}'; exit {code}"


def told(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    assert len(lines) == len(FACTS), lines
    return dict(zip(FACTS, lines, strict=True))


# A sweep that is interrupted while it starts, and one that has nothing left to do: neither needs trials


@pytest.fixture(scope="module")
def sweep(calm, tmp_path_factory):
    sweep = Sweep(tmp_path_factory.mktemp("hook") / "home")
    shutil.copytree(calm[0].output, sweep.output)
    return sweep


@pytest.fixture(scope="module")
def finished(sweep):
    return sweep.run("--on-end", noting(sweep.home / "finished.txt", code=7))


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_is_told_as_such(tmp_path):
    sweep = Sweep(tmp_path / "home")
    with sweep.start(f"--on-end={noting(sweep.home / 'interrupted.txt')}") as process:
        read_until(process, "trials, about ")  # it starts Ray
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert told(sweep.home / "interrupted.txt") == {
        "NAME": "faces",
        "FOLDER": str(sweep.folder),
        "STATE": "INTERRUPTED",
        "SUMMARY": "0 trials: none",
        "BEST_TRIAL": "",
        "BEST_NME": "",
    }


@pytest.mark.slow
def test_a_command_that_fails_is_a_warning_and_changes_nothing(sweep, finished):
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == "--on-end: the command failed (exit code 7)\n"
    facts, best = told(sweep.home / "finished.txt"), load(sweep.folder).best
    assert facts["STATE"] == "FINISHED"
    assert (facts["BEST_TRIAL"], float(facts["BEST_NME"])) == (str(best.number), best.best_nme)
    assert facts["SUMMARY"] == f"5 trials: {sweep.counts()}; best val NME {best.best_nme:.2%} (trial {best.number})"


@pytest.mark.slow
def test_what_is_refused_has_failed(sweep, finished):
    ended = sweep.run("--train.optim.epochs", "5", "--on-end", noting(sweep.home / "refused.txt"))
    assert ended.returncode == 2
    assert "train.optim.epochs: 3 -> 5" in ended.stderr
    facts = told(sweep.home / "refused.txt")
    assert (facts["STATE"], facts["BEST_TRIAL"]) == ("FAILED", str(load(sweep.folder).best.number))


@pytest.mark.slow
def test_the_command_is_in_no_file_of_the_sweep(sweep, finished):
    files = [path for path in [*sweep.output.rglob("*"), sweep.home / "faces.yaml"] if path.is_file()]
    assert {"events.jsonl", "sweep.log", "sweep.yaml", "mlflow.db", "study.db"} <= {path.name for path in files}
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    started = [e.data["tags"]["command"] for e in sweep.events() if "tags" in e.data]
    assert len(started) == 2
    assert "--on-end '***'" in started[-1]
    assert sweep.runs()[None].data.tags["command"] == started[-1]


@pytest.mark.slow
def test_a_sweep_without_a_complete_trial_has_failed(tmp_path):
    """Its one trial diverged; the same command has nothing left to run, so that no Ray is needed."""
    sweep = Sweep(tmp_path / "home", settings=SETTINGS)
    config = load_sweep(sweep.home / "faces.yaml", {"output": str(sweep.output)})
    with begun(config) as controller:
        controller.next_trial()
        controller.end(0, State.DIVERGED, "loss is nan")
    ended = sweep.run("--on-end", noting(sweep.home / "failed.txt"))
    assert (ended.returncode, ended.stderr) == (1, "")
    facts = told(sweep.home / "failed.txt")
    assert (facts["STATE"], facts["SUMMARY"], facts["BEST_TRIAL"]) == ("FAILED", "1 trial: 1 diverged", "")


# Without a sweep


@pytest.fixture
def config(tmp_path):
    (tmp_path / "a.yaml").write_text("space: {optim.lr: {log_uniform: [0.001, 0.01]}}\n")
    return load_sweep(tmp_path / "a.yaml", {"output": str(tmp_path / "out")})


@pytest.mark.parametrize(("code", "state"), [(0, "FINISHED"), (1, "FAILED"), (130, "INTERRUPTED"), (None, "FAILED")])
def test_the_state_follows_the_exit_code(config, tmp_path, code, state):
    with end_hook.at_end(noting(tmp_path / "end.txt"), config) as end:
        end.code = code
    assert told(tmp_path / "end.txt") == {
        "NAME": "a",
        "FOLDER": str(tmp_path / "out" / "a"),
        "STATE": state,
        "SUMMARY": "",
        "BEST_TRIAL": "",
        "BEST_NME": "",
    }


@pytest.mark.parametrize(("error", "state"), [(OSError("disk"), "FAILED"), (KeyboardInterrupt(), "INTERRUPTED")])
def test_an_error_is_told_and_goes_its_way(config, tmp_path, error, state):
    with pytest.raises(type(error)), end_hook.at_end(noting(tmp_path / "end.txt"), config):
        raise error
    assert told(tmp_path / "end.txt")["STATE"] == state


def test_an_error_goes_its_way_though_the_command_fails(config, capfd):
    with pytest.raises(OSError, match="disk"), end_hook.at_end(f"{SECRET}-is-no-command 2> /dev/null", config):
        raise OSError("disk")
    assert capfd.readouterr().err == "--on-end: the command failed (exit code 127)\n"


def test_a_command_that_hangs_is_given_up(config, monkeypatch, capfd):
    monkeypatch.setattr(end_hook, "_TIMEOUT", 0.2)
    with end_hook.at_end(f"exec sleep 60 # {SECRET}", config) as end:
        end.code = 0
    assert capfd.readouterr().err == "--on-end: the command failed (TimeoutExpired)\n"


def test_without_a_command_nothing_is_run(config, monkeypatch):
    monkeypatch.setattr(end_hook, "_call", lambda *_: pytest.fail("was called"))
    with end_hook.at_end(None, config) as end:
        end.code = 0


def test_a_log_that_cannot_be_read_does_not_hide_how_it_ended(config, tmp_path):
    config.folder.mkdir(parents=True)
    config.dump(config.folder / "sweep.yaml")
    (config.folder / "events.jsonl").write_text('{"event":"trial_interrupted","time":1,"trial":3}\nnonsense\n')
    with end_hook.at_end(noting(tmp_path / "end.txt"), config) as end:
        end.code = 0
    assert (told(tmp_path / "end.txt")["STATE"], told(tmp_path / "end.txt")["SUMMARY"]) == ("FINISHED", "")


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("python -m sweep.run a.yaml --trials 3", "python -m sweep.run a.yaml --trials 3"),
        ("python -m sweep.run --on-end 'curl x/T0KEN' --trials 3", "python -m sweep.run --on-end '***' --trials 3"),
        ("python -m sweep.run '--on-end=curl x/T0KEN' a.yaml", "python -m sweep.run '--on-end=***' a.yaml"),
        ("python -m sweep.run --on-end ''", "python -m sweep.run --on-end '***'"),
        ("python -m sweep.run --on-end a --on-end b", "python -m sweep.run --on-end '***' --on-end '***'"),
        ("sweep.run_sweep('a.yaml', trials=3)", "sweep.run_sweep('a.yaml', trials=3)"),
    ],
)
def test_the_value_is_hidden_and_the_rest_is_not(command, shown):
    assert end_hook.hidden(command) == shown

"""What MLflow could not be told while it was away is told later; the sweep ends well all the same."""

import socket
from pathlib import Path

import pytest
import yaml
from written_sweeps import begun

from sweep import run, sync
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.core.trial import State
from sweep.driver import session
from sweep.tracking.mlflow_client import connect


@pytest.fixture
def away():
    """An address at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def config(tmp_path, monkeypatch) -> SweepConfig:
    """A sweep of two trials that are finished and in the event log, but not in MLflow."""
    monkeypatch.chdir(tmp_path)
    space = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}
    tree = {
        "space": space,
        "trials": 2,
        "repeats": {"share": 0},
        "pruner": {"name": "none"},
        "output": "out",
        "train": {"optim": {"epochs": 3}},
    }
    Path("faces.yaml").write_text(yaml.safe_dump(tree))
    config = load_sweep("faces.yaml", {})
    with begun(config) as controller:
        for number in (0, 1):
            assert controller.next_trial().number == number
            for epoch in (1, 2, 3):
                nme = 0.2 / epoch - number / 100
                metrics = {"val/nme": nme, "best_nme": nme, "epoch_seconds": 1.0}
                assert controller.report(number, epoch, metrics)
            controller.end(number, State.COMPLETE)
    return config


def check_runs(uri: str) -> None:
    """Everything is there, and once."""
    client = connect(uri)
    runs = client.search_runs([client.get_experiment_by_name("starsweep").experiment_id])
    by_trial = {r.data.tags.get("starsweep.trial"): r for r in runs}
    assert len(runs) == 3
    assert set(by_trial) == {None, "0", "1"}
    for trial in (0, 1):
        child = by_trial[str(trial)]
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == by_trial[None].info.run_id
        points = client.get_metric_history(child.info.run_id, "val/nme")
        assert sorted((p.step, p.value) for p in points) == [(e, 0.2 / e - trial / 100) for e in (1, 2, 3)]


def test_a_sweep_ends_well_without_mlflow_and_says_how_to_send_the_rest(config, away, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "_CLOSING_SECONDS", 2.0)
    assert run.main(["faces.yaml", "--mlflow_uri", away]) == 0
    printed = capsys.readouterr()
    assert "2 trials: 2 complete" in printed.out
    assert "python -m sweep.sync out/faces" in printed.out
    assert f"MLflow at {away} cannot be reached" in " ".join((printed.out + printed.err).split())
    assert (config.folder / "best.yaml").exists()
    assert not (tmp_path / "out" / "mlflow.db").exists()

    store = f"sqlite:///{tmp_path / 'later.db'}"
    assert sync.main(["out/faces", "--mlflow_uri", store]) == 0
    assert "MLflow has all of sweep faces" in capsys.readouterr().out
    check_runs(store)


@pytest.mark.parametrize(
    "words", [["faces", "--output", "out"], ["out/faces"], ["out/faces/"], ["out/../out/faces"]], ids=str
)
def test_a_sweep_is_found_by_name_or_folder(words, config, tmp_path, capsys):
    assert sync.main(words) == 0
    assert capsys.readouterr().out == "9 events sent; MLflow has all of sweep faces\n".replace("9", str(events(config)))
    check_runs(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")


def events(config: SweepConfig) -> int:
    return len((config.folder / "events.jsonl").read_text().splitlines())


def test_sending_again_sends_nothing(config, tmp_path, capsys):
    assert sync.main(["out/faces"]) == 0
    assert sync.main(["out/faces"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 events sent; MLflow has all of sweep faces"
    (config.folder / "mlflow.json").unlink()  # the cache of what was sent
    assert sync.main(["out/faces"]) == 0
    check_runs(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")


def test_while_mlflow_is_away_it_says_so_and_keeps_everything(config, away, tmp_path, capsys):
    before = (config.folder / "events.jsonl").read_bytes()
    assert sync.main(["out/faces", "--mlflow_uri", away]) == 1
    error = capsys.readouterr().err
    assert f"MLflow at {away} cannot be reached" in error
    assert "try again later" in error
    assert "Traceback" not in error
    assert (config.folder / "events.jsonl").read_bytes() == before
    assert sync.main(["out/faces"]) == 0
    check_runs(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")


def test_the_next_call_of_the_sweep_sends_the_rest_too(config, tmp_path, capsys):
    assert run.main(["faces.yaml"]) == 0
    assert "MLflow has not got everything" not in capsys.readouterr().out
    check_runs(f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no sweep of this name in outputs"),
        (["faces", "--output", "elsewhere"], "faces: no sweep of this name in elsewhere"),
        (["out/faces", "--mlflow_uri", "file:./mlruns"], "MLflow no longer stores runs in a plain folder"),
        (["out/faces", "--mlflow_uri", "sqlite://me:secret@host"], "sqlite://me:***@host"),
        (["out/faces", "--mlflow_ur", "x"], "--mlflow_ur: unknown option (nearest valid key: mlflow_uri)"),
    ],
)
def test_bad_input_ends_with_two_and_one_message(words, message, config, capsys):
    with pytest.raises(SystemExit) as ended:
        sync.main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("python -m sweep.sync: ")
    assert "Traceback" not in error

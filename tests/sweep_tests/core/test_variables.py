"""Variables by which users of Ray and MLflow name a cluster or a server are obeyed, or said not to be."""

from pathlib import Path

import pytest

from sweep.core.config_file import load_sweep, load_to_run
from trainer.errors import ConfigError

VARIABLES = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


@pytest.fixture
def sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*VARIABLES, "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "mine.yaml"
    path.write_text("space: {optim.lr: {log_uniform: [1.0e-4, 1.0e-2]}}\n")
    return path


@pytest.mark.parametrize(
    ("key", "name", "value", "other"),
    [
        ("ray_address", "RAY_ADDRESS", "10.0.0.1:6379", "auto"),
        ("mlflow_uri", "MLFLOW_TRACKING_URI", "http://127.0.0.1:5000", "http://other:1"),
        ("mlflow_experiment", "MLFLOW_EXPERIMENT_NAME", "mine", "yours"),
    ],
)
def test_a_variable_gives_what_nobody_else_does(sweep_file, monkeypatch, key, name, value, other):
    monkeypatch.setenv(name, value)
    config, lines = load_to_run(sweep_file, {})
    assert getattr(config, key) == value
    assert lines == [f"{key} = {value} (given by {name})"]
    config, lines = load_to_run(sweep_file, {key: other})
    assert getattr(config, key) == other
    assert lines == []
    sweep_file.write_text(f"{sweep_file.read_text()}{key}: {other}\n")
    config, lines = load_to_run(sweep_file, {})
    assert getattr(config, key) == other
    assert lines == []


def test_null_says_that_a_variable_is_not_meant(sweep_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    config, lines = load_to_run(sweep_file, {"mlflow_uri": "null"})
    assert config.mlflow_uri is None
    assert lines == []


def test_what_was_written_is_read_back_without_variables(sweep_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert load_sweep(sweep_file, {}).mlflow_uri is None


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("MLFLOW_RUN_ID", "abc", "MLFLOW_RUN_ID is set, but a sweep makes runs of its own"),
        ("MLFLOW_EXPERIMENT_ID", "3", "MLFLOW_EXPERIMENT_ID is set, but a sweep names its experiment"),
        ("WORLD_SIZE", "8", "WORLD_SIZE is set, but Ray starts the processes of a sweep"),
        ("RAY_ADDRESS", "http://127.0.0.1:8265", "RAY_ADDRESS is set, but http://127.0.0.1:8265 is a dashboard"),
    ],
)
def test_what_is_not_obeyed_is_said(sweep_file, monkeypatch, name, value, line):
    monkeypatch.setenv(name, value)
    config, lines = load_to_run(sweep_file, {})
    assert config == load_sweep(sweep_file, {})
    assert [text[: len(line)] for text in lines] == [line]


@pytest.mark.parametrize(
    ("name", "value"), [("RAY_ADDRESS", "local"), ("RAY_ADDRESS", ""), ("WORLD_SIZE", ""), ("WORLD_SIZE", "1")]
)
def test_a_variable_that_says_nothing_changes_nothing(sweep_file, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert load_to_run(sweep_file, {}) == (load_sweep(sweep_file, {}), [])


def test_a_value_that_cannot_be_used_names_its_variable(sweep_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ConfigError, match=r"^mlflow_uri: .*given by MLFLOW_TRACKING_URI"):
        load_to_run(sweep_file, {})


def test_a_value_that_no_sweep_file_may_have_names_its_variable_too(sweep_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "a\tb")
    with pytest.raises(ConfigError, match=r"mlflow_experiment.*given by MLFLOW_EXPERIMENT_NAME"):
        load_to_run(sweep_file, {})


def test_secrets_of_variables_are_not_shown(sweep_file, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hidden@127.0.0.1:5000")
    assert "hidden" not in "".join(load_to_run(sweep_file, {})[1])

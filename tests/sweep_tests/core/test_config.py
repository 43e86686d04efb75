"""A sweep file becomes a complete config, or one message that says what does not fit; a bad one leaves no trace."""

import json
from pathlib import Path

import pytest
import yaml

from sweep import run
from sweep.core.config import SweepConfig, differences, with_younger
from sweep.core.config_file import DEMO, load_sweep
from sweep.core.trial import TrialRecord
from trainer.config import TrainConfig
from trainer.errors import ConfigError

SPACE = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "loss.star_weight": {"log_uniform": [0.01, 100]}}


def sweep_file(folder: Path, file: str = "faces.yaml", **tree) -> Path:
    path = folder / file
    path.write_text(yaml.safe_dump({"space": SPACE} | tree, sort_keys=False), encoding="utf-8")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_without_a_file_it_is_the_demo():
    config = load_sweep(None, {})
    assert config.name == "demo"
    assert config.train.data.kind == "synthetic"
    assert [d.key for d in config.dimensions] == ["loss.star_weight", "optim.lr"]
    assert DEMO.exists()


def test_every_sweep_file_of_the_project_loads_under_its_own_name():
    files = sorted(DEMO.parent.glob("*.yaml"))
    assert {load_sweep(path, {}).name for path in files} == {path.stem for path in files}


def test_the_name_is_the_files_unless_given(tmp_path):
    assert load_sweep(sweep_file(tmp_path), {}).name == "faces"
    assert load_sweep(sweep_file(tmp_path, file="a-b_c.2.yaml"), {}).name == "a-b_c.2"
    assert load_sweep(sweep_file(tmp_path), {"name": "2024"}).name == "2024"
    assert load_sweep(sweep_file(tmp_path, name="given"), {}).name == "given"


def test_train_is_a_path_relative_to_the_sweep_file_or_inline(tmp_path, monkeypatch):
    (tmp_path / "train").mkdir()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "train" / "base.yaml").write_text("optim: {epochs: 7}\n")
    monkeypatch.chdir(tmp_path)
    by_path = load_sweep(sweep_file(tmp_path / "sweep", train="../train/base.yaml"), {})
    inline = load_sweep(sweep_file(tmp_path, train={"optim": {"epochs": 7}}), {})
    assert by_path.train == inline.train
    assert by_path.train.optim.epochs == 7


def test_overrides_reach_the_sweep_and_the_train_config_it_names(tmp_path):
    (tmp_path / "base.yaml").write_text("optim: {epochs: 7}\nmodel: {width: 16}\n")
    path = sweep_file(tmp_path, train="base.yaml")
    given = {"trials": "40", "train.optim.epochs": "3", "sampler.name": "gp", "hours": "0.5", "pruner.reduction": "4"}
    config = load_sweep(path, given)
    assert (config.trials, config.train.optim.epochs, config.train.model.width) == (40, 3, 16)
    assert (config.sampler.name, config.hours, config.pruner.reduction) == ("gp", 0.5, 4)
    space = load_sweep(path, {"space": "{optim.lr: {uniform: [1e-3, 2e-3]}}"}).dimensions
    assert [(d.key, d.kind, d.low, d.high) for d in space] == [("optim.lr", "uniform", 1e-3, 2e-3)]


def test_all_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faces").mkdir()
    path = sweep_file(
        tmp_path, output="out", train={"data": {"kind": "wflw", "root": "faces", "cache_dir": "../cache"}}
    )
    config = load_sweep(path.name, {})
    assert config.output == str(tmp_path / "out")
    assert config.train.data.root == str(tmp_path / "faces")
    assert config.train.data.cache_dir == str(tmp_path.parent / "cache")
    assert config.folder == tmp_path / "out" / "faces"
    assert config.trial_config(TrialRecord(3, {})).run.output == str(tmp_path / "out" / "faces" / "trials" / "0003")


def test_the_threads_of_a_trial_are_its_cpus(tmp_path):
    path = sweep_file(tmp_path)
    assert load_sweep(path, {}).train.run.threads == 1
    assert load_sweep(path, {"resources.cpus": "2"}).train.run.threads == 2
    assert load_sweep(path, {"resources.cpus": "0.5"}).train.run.threads == 1
    assert load_sweep(path, {"resources.cpus": "2", "train.run.threads": "2"}).train.run.threads == 2


def test_a_trial_is_the_base_with_its_parameters(tmp_path):
    config = load_sweep(sweep_file(tmp_path, train={"optim": {"epochs": 7}}), {})
    params = {"optim.lr": 2e-3, "loss.star_weight": 0.5}
    trial, best = config.trial_config(TrialRecord(12, params)), config.best_config(params)
    assert (trial.optim.lr, trial.loss.star_weight, trial.optim.epochs) == (2e-3, 0.5, 7)
    assert best.run.output is None
    assert best.identity() == trial.identity()
    assert TrainConfig.from_tree(best.tree()) == best


def test_what_is_written_is_read_back(tmp_path):
    known = [{"optim.lr": 1e-3}]
    config = load_sweep(sweep_file(tmp_path, known=known, output=str(tmp_path)), {"trials": "3", "hours": "2"})
    config.dump(tmp_path / "again.yaml")
    assert load_sweep(tmp_path / "again.yaml", {}) == config
    assert load_sweep(tmp_path / "again.yaml", {}).known == known


REFUSED = [
    ({"space": {"optim.lr": {"uniform": 3}}}, {}, "space.optim.lr.uniform = 3: "),
    ({"known": [{"optim.lr": 1e-3}, {"optim.lr": 1.0}]}, {}, "known[1]: optim.lr = 1.0 is outside of the space"),
    ({"known": [{"optim.gamma": 0.5}]}, {}, "known[0]: optim.gamma is not in the space"),
    ({"known": [3]}, {}, "known.0 = 3: "),
    ({"known": {"optim.lr": 1e-3}}, {}, "known = {'optim.lr': 0.001}: "),
    ({"tirals": 3}, {}, "tirals: unknown setting (nearest valid key: trials)"),
    ({"sampler": {"nam": "tpe"}}, {}, "sampler.nam: unknown setting (nearest valid key: sampler.name)"),
    ({"train": {"optim": {"epoch": 3}}}, {}, "train.optim.epoch: unknown setting (nearest valid key: train.optim.ep"),
    ({"train": {"optim": {"epochs": 0}}}, {}, "train.optim.epochs = 0: "),
    ({"train": 3}, {}, "train = 3: "),
    ({"train": "nowhere.yaml"}, {}, "nowhere.yaml: cannot be read as a config file"),
    ({"train": {"run": {"threads": 3}}}, {}, "train.run.threads = 3: a trial has resources.cpus = 1, hence 1 threads"),
    ({"train": {"run": {"output": "x"}}}, {}, "train.run.output = 'x': trials have folders of their own"),
    ({"name": "../up"}, {}, "name = '../up': "),
    ({"name": ".."}, {}, "name = '..': "),
    ({"name": "a/b"}, {}, "name = 'a/b': "),
    ({"name": "/up"}, {}, "name = '/up': "),
    ({"name": ""}, {}, "name = '': "),
    ({"name": "a\n"}, {}, "name = 'a\\n': "),
    ({"name": "x" * 101}, {}, "name = 'xxx"),
    ({"trials": 0}, {}, "trials = 0: "),
    ({"trials": "many"}, {}, "trials = 'many': "),
    ({}, {"trials": "1.5"}, "trials = 1.5: "),
    ({}, {"hours": "0"}, "hours = 0: "),
    ({}, {"hours": ".nan"}, "hours = nan: "),
    ({}, {"seed": "-1"}, "seed = -1: "),
    ({}, {"slots": "0"}, "slots = 0: "),
    ({}, {"retries": "-1"}, "retries = -1: "),
    ({}, {"keep": "0"}, "keep = 0: "),
    (
        {},
        {"sampler.name": "bayes"},
        "sampler.name = 'bayes': input should be 'rank_gp', 'tpe', 'gp', 'cmaes', 'random' or",
    ),
    ({}, {"pruner.name": "asha"}, "pruner.name = 'asha': input should be 'successive_halving', 'median' or 'none'"),
    ({}, {"pruner.reduction": "1"}, "pruner.reduction = 1: "),
    ({}, {"pruner.min_epochs": "0"}, "pruner.min_epochs = 0: "),
    ({}, {"resources.cpus": "-1"}, "resources.cpus = -1: "),
    ({}, {"train.loss.star_weight": "-1"}, "train.loss.star_weight = -1: "),
    ({}, {"train.run.threads": "2"}, "train.run.threads = 2: a trial has resources.cpus = 1"),
    ({}, {"train.run.output": "x"}, "train.run.output = 'x': trials have folders"),
]


@pytest.mark.parametrize(("tree", "overrides", "message"), REFUSED)
def test_what_does_not_fit_is_refused(tree, overrides, message, tmp_path):
    with pytest.raises(ConfigError) as raised:
        load_sweep(sweep_file(tmp_path, **tree), overrides)
    assert message in str(raised.value)


def test_unknown_overrides_name_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"tials: unknown setting \(nearest valid key: trials\)"):
        load_sweep(sweep_file(tmp_path), {"tials": "3"})
    with pytest.raises(ConfigError, match=r"train.lr: unknown setting \(nearest valid key: train.optim.lr\)"):
        load_sweep(sweep_file(tmp_path), {"train.lr": "3"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: [", "is not valid YAML"),
        ("- 1\n- 2\n", "must hold a mapping of settings, but holds list"),
        ("trials: 3\ntrials: 4\nspace: {}\n", "trials: given twice"),
        ("", "space: is needed and not given"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(text, message, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_sweep(path, {})
    assert message in str(raised.value)
    assert "bad.yaml" in str(raised.value)


def test_differences_name_what_changed():
    old = {"a": 1, "b": {"c": [1, 2], "d": {"e": "x"}}, "gone": True}
    new = {"a": 1, "b": {"c": [1, 3], "d": {"e": "y"}}, "come": None, "more": 0.5}
    assert differences(old, new) == [
        "b.c: [1, 2] -> [1, 3]",
        "b.d.e: 'x' -> 'y'",
        "gone: True -> None",
        "more: None -> 0.5",
    ]
    assert differences(old, old) == []
    assert differences({"a": {"b": 1}}, {"a": 2}) == ["a: {'b': 1} -> 2"]


FILES = {"train__data__kind": "w300", "train__data__root": "/faces"}


def decisive(tmp_path: Path, tree: dict | None = None, **overrides) -> dict:
    keys = {key.replace("__", "."): value for key, value in overrides.items()}
    return load_sweep(sweep_file(tmp_path, **(tree or {})), keys).decisive()


@pytest.mark.parametrize(
    "overrides",
    [
        {"output": "elsewhere"},
        {"train__data__cache_dir": "elsewhere"},
        {"train__run__checkpoint_seconds": "2"},
        {"trials": "40"},
        {"hours": "1"},
        {"slots": "1"},
        {"retries": "0"},
        {"keep": "1"},
        {"name": "another"},
        {"mlflow_uri": "http://127.0.0.1:5000"},
        {"mlflow_experiment": "another"},
        {"resources__gpus": "1"},
    ],
)
def test_where_a_sweep_lies_and_how_long_it_runs_is_not_decisive(overrides, tmp_path):
    assert decisive(tmp_path, **overrides) == decisive(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"train__optim__lr": "0.003"}, "train.optim.lr: 0.0005 -> 0.003"),
        ({"train__optim__epochs": "31"}, "train.optim.epochs: 30 -> 31"),
        ({"train__run__seed": "1"}, "train.run.seed: 0 -> 1"),
        ({"train__run__precision": "float32"}, "train.run.precision: 'auto' -> 'float32'"),
        ({"seed": "1"}, "seed: 0 -> 1"),
        ({"resources__cpus": "2"}, "train.run.threads: 1 -> 2"),
        ({"sampler__name": "random"}, "sampler.name: 'rank_gp' -> 'random'"),
        ({"pruner__min_epochs": "3"}, "pruner.min_epochs: None -> 3"),
        ({"known": "[{optim.lr: 1e-3}]"}, "known: [] -> [{'optim.lr': 0.001}]"),
    ],
)
def test_what_changes_the_trials_is_decisive(overrides, line, tmp_path):
    assert differences(decisive(tmp_path), decisive(tmp_path, **overrides)) == [line]


def test_settings_that_an_old_study_does_not_know_stand_at_their_defaults(tmp_path):
    """All of them, so that no setting to come needs a line of its own."""
    new = decisive(tmp_path)
    old = json.loads(json.dumps(new))
    for section in (old["train"]["data"], old["train"]["optim"], old["sampler"], old["pruner"]):
        for key in [key for key in section if isinstance(section[key], float | bool) or section[key] is None]:
            section.pop(key)
    assert "clip_norm" not in old["train"]["optim"]
    assert differences(with_younger(old), with_younger(new)) == []
    changed = decisive(tmp_path, train__data__placeholders="missing", **FILES)
    old = decisive(tmp_path, **FILES)
    old["train"]["data"].pop("placeholders")
    assert differences(with_younger(old), with_younger(changed)) == ["train.data.placeholders: 'refuse' -> 'missing'"]
    assert set(with_younger(old)["space"]) == set(old["space"])  # is no section of settings


def test_what_a_sweep_with_brackets_has_written_is_read_as_halving_and_no_users_file_is(tmp_path):
    config = load_sweep(sweep_file(tmp_path), {"pruner.min_epochs": "1"})
    tree = config.tree()
    tree["pruner"] |= {"name": "hyperband", "brackets": 2}
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(tree))
    assert load_sweep(path, {}, written=True) == config
    with pytest.raises(ConfigError, match=r"pruner\.name = 'hyperband'"):
        load_sweep(path, {})
    old = config.decisive()
    old["pruner"] |= {"name": "hyperband", "brackets": 2}
    assert differences(with_younger(old), with_younger(config.decisive())) == []


def test_a_failure_rate_is_an_objective_by_the_name_that_it_is_measured_by(tmp_path):
    assert load_sweep(sweep_file(tmp_path), {"objectives": "[nme, fr10]"}).objectives == ("nme", "fr10")
    files = {key.replace("__", "."): value for key, value in FILES.items()}  # 300-W's tables are at 0.08
    assert load_sweep(sweep_file(tmp_path), {"objectives": "[nme, fr8]", **files}).objectives == ("nme", "fr8")
    with pytest.raises(ConfigError, match="fr10 is not among nme, fr8, images_per_second"):
        load_sweep(sweep_file(tmp_path), {"objectives": "[nme, fr10]", **files})


def test_the_space_is_decisive(tmp_path):
    space = {**SPACE, "optim.lr": {"log_uniform": [1e-4, 1e-1]}}
    lines = differences(decisive(tmp_path), decisive(tmp_path, {"space": space}))
    assert lines == ["space.optim.lr.log_uniform: [0.0001, 0.01] -> [0.0001, 0.1]"]


# The command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "trials = 0: "),
        (["--trails", "3"], "--trails: unknown option (nearest valid key: trials)"),
        (["--train.optim.lrr", "3"], "--train.optim.lrr: unknown option (nearest valid key: train.optim.lr)"),
        (["--train.optim.epochs", "many"], "train.optim.epochs = 'many': "),
        (["--name", "../up"], "name = '../up': "),
        (["--pruner.name", "asha"], "pruner.name = 'asha': "),
        (["--train.run.threads", "7"], "train.run.threads = 7: "),
        (["--known", "[{optim.lr: 7}]"], "known[0]: optim.lr = 7 is outside of the space"),
        (["--space", "{optim.lrr: {uniform: [0, 1]}}"], "space.optim.lrr: the trainer has no such setting"),
        (["--space", "{run.seed: {int: [0, 1]}}"], "space.run.seed: settings of section run are not searched"),
        (["--space", "{optim.lr: {normal: [0, 1]}}"], "space.optim.lr = {'normal': [0, 1]}: must be one of"),
        (["--space", "{}"], "space: is empty"),
        (["--mlflow_uri", "file:./mlruns"], "MLflow no longer stores runs in a plain folder"),
        (["--mlflow_uri", "sqlite://"], "a database in memory is lost at the end"),
    ],
)
def test_bad_input_ends_with_two_and_one_message_and_leaves_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    path = sweep_file(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run.main([str(path), *arguments])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("python -m sweep.run: ")
    assert "Traceback" not in printed.err
    assert printed.err.count("python -m sweep.run: ") == 1
    assert names(work) == []
    assert names(tmp_path) == [path.name, "work"]


def test_a_missing_sweep_file_is_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run.main(["nowhere.yaml"])
    assert ended.value.code == 2
    assert "nowhere.yaml: cannot be read as a config file" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_help_lists_every_setting_with_meaning_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        run.main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for option in ("--trials", "--seed", "--sampler.name", "--resources.cpus", "--train.optim.epochs", "--dry-run"):
        assert option in text
    assert "default: 20" in text


def test_a_config_does_not_change_later(tmp_path):
    config = load_sweep(sweep_file(tmp_path), {})
    with pytest.raises(ValueError, match="frozen"):
        config.trials = 3
    assert isinstance(config, SweepConfig)


def test_a_relative_store_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_sweep(sweep_file(tmp_path), {"mlflow_uri": "sqlite:///a.db"})
    assert config.mlflow_uri == f"sqlite:///{tmp_path / 'a.db'}"


def test_paths_of_weights_and_data_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    overrides = {"train.model.pretrained": "weights/r.pt", "train.data.cache_dir": "~/crops"}
    train = load_sweep(sweep_file(tmp_path), overrides).train
    assert train.model.pretrained == str(tmp_path / "weights" / "r.pt")
    assert train.data.cache_dir == str(tmp_path / "home" / "crops")

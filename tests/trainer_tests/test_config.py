"""TrainConfig: strict, frozen, one message; and what it takes to repeat a run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml
from waiting import PATIENCE

from trainer import train
from trainer.config import TrainConfig
from trainer.cores import available_cores
from trainer.errors import ConfigError
from trainer.settings import fields

PROJECT = Path(__file__).parents[2]
FIELDS = dict(fields(TrainConfig))
WFLW = {"data.kind": "wflw", "data.root": "/faces"}
IDENTITY = "c64800c773d2af43"  # of the defaults, in checkpoints and studies of before the settings of 2026-11-29
MULTISTEP = {"optim.schedule": "multistep", "optim.milestones": [3, 7]}

# every knob: what else must be set for it to apply, and a value that is not its default
KNOBS: dict[str, tuple[dict[str, Any], Any]] = {
    "data.kind": (WFLW, "w300"),
    "data.root": (WFLW, "/other"),
    "data.layout": ({"data.kind": "coco", "data.root": "/faces"}, "w300_68"),
    "data.train_list": (WFLW, "a.txt"),
    "data.val_list": (WFLW, "a.txt"),
    "data.test_list": (WFLW, "a.txt"),
    "data.train_on": ({}, "train+val"),
    "data.val_fraction": (WFLW, 0.2),
    "data.split_seed": (WFLW, 1),
    "data.group_by": (WFLW, "folder"),
    "data.train_faces": ({}, 5),
    "data.val_faces": ({}, 5),
    "data.test_faces": ({}, 5),
    "data.synthetic_seed": ({}, 1),
    "data.skip_bad": (WFLW, True),
    "data.skip_at_most": ({**WFLW, "data.skip_bad": True}, 0.1),
    "data.allow_overlap": (WFLW, True),
    "data.placeholders": (WFLW, "missing"),
    "data.nme_norm": ({}, "box"),
    "data.nme_threshold": ({}, 0.08),
    "data.image_size": ({}, 64),
    "data.box_scale": ({}, 1.5),
    "data.crop_margin": ({}, 0.5),
    "data.cache_dir": ({}, "/cache"),
    "data.workers": ({}, 2),
    "data.augment_on": ({}, "device"),
    "data.augment.flip": ({}, 0.25),
    "data.augment.rotation": ({}, 30.0),
    "data.augment.scale": ({}, 0.1),
    "data.augment.shift": ({}, 0.1),
    "data.augment.colour": ({}, 0.1),
    "data.augment.occlusion": ({}, 0.2),
    "data.augment.blur": ({}, 0.2),
    "model.backbone": ({}, "resnet18"),
    "model.pretrained": ({}, "imagenet"),
    "model.head": ({}, "deconv"),
    "model.width": ({}, 64),
    "model.deconv_layers": ({"model.head": "deconv"}, 2),
    "loss.name": ({}, "wing"),
    "loss.star_weight": ({}, 2.0),
    "loss.distance": ({}, "l1"),
    "optim.name": ({}, "adamw"),
    "optim.lr": ({}, 1e-3),
    "optim.weight_decay": ({}, 1e-4),
    "optim.epochs": ({}, 12),
    "optim.batch_size": ({}, 8),
    "optim.accumulate": ({}, 2),
    "optim.warmup_steps": ({}, 10),
    "optim.warmup_from": ({"optim.warmup_steps": 10}, 0.1),
    "optim.schedule": ({}, "constant"),
    "optim.milestones": ({"optim.schedule": "multistep"}, [2, 4]),
    "optim.gamma": (MULTISTEP, 0.5),
    "optim.clip_norm": ({}, 1.0),
    "optim.ema_decay": ({}, 0.9),
    "run.output": ({}, "/run"),
    "run.seed": ({}, 1),
    "run.device": ({}, "cpu"),
    "run.threads": ({}, 1),
    "run.precision": ({}, "float32"),
    "run.channels_last": ({}, False),
    "run.compile": ({}, True),
    "run.flip_test": ({}, False),
    "run.checkpoint_seconds": ({}, 2.0),
}
ON_THE_OUTSIDE = {"run.output", "run.checkpoint_seconds", "data.cache_dir", "data.workers"}


def value_of(config: TrainConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_table_of_knobs_is_complete() -> None:
    assert list(KNOBS) == list(FIELDS)


# --- reading


def test_defaults_make_a_config() -> None:
    config = TrainConfig.load(None)
    assert config == TrainConfig()
    assert config.loss.name == "star"
    assert config.model.head == "pyramid"
    assert config.data.landmarks.name == "wflw98"


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "optim: {lr: 0.01, epochs: 7}\n")
    config = TrainConfig.load(path, {"optim.lr": "3e-4"})
    assert (config.optim.lr, config.optim.epochs, config.optim.batch_size) == (3e-4, 7, 32)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+1e-3", "0.001", ".001", "1.e-3"])
def test_every_spelling_of_a_number_is_a_number(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.yaml", f"optim: {{lr: {text}}}\n")
    assert TrainConfig.load(path).optim.lr == 0.001
    assert TrainConfig.load(None, {"optim.lr": text}).optim.lr == 0.001


def test_text_fields_stay_text() -> None:
    config = TrainConfig.load(None, {"run.output": "2024", "data.cache_dir": "1e3", "model.pretrained": "true"})
    assert (config.run.output, config.data.cache_dir, config.model.pretrained) == ("2024", "1e3", "true")


@pytest.mark.parametrize("text", ["null", "~"])
def test_null_unsets_an_optional_field(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.yaml", "run: {output: here, threads: 2}\n")
    config = TrainConfig.load(path, {"run.output": text, "run.threads": text})
    assert config.run.output is None
    assert config.run.threads is None


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert TrainConfig.load(write(tmp_path / "a.yaml", "# nothing\n")) == TrainConfig()


@pytest.mark.parametrize("key", FIELDS)
def test_frozen(key: str) -> None:
    *parents, name = key.split(".")
    section = value_of(TrainConfig(), ".".join(parents))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(section, name, getattr(section, name))


@pytest.mark.parametrize(("key", "requires", "value"), [(k, r, v) for k, (r, v) in KNOBS.items()])
def test_a_dumped_config_reads_back_equal(tmp_path: Path, key: str, requires: dict[str, Any], value: Any) -> None:
    config = TrainConfig().replace({**requires, key: value})
    config.dump(tmp_path / "a.yaml")
    loaded = TrainConfig.load(tmp_path / "a.yaml")
    assert loaded == config
    assert loaded.identity() == config.identity()
    assert loaded.tree() == config.tree() == yaml.safe_load((tmp_path / "a.yaml").read_text())


@pytest.mark.parametrize(("key", "requires", "value"), [(k, r, v) for k, (r, v) in KNOBS.items()])
def test_a_knob_is_set_by_the_command_line_as_by_a_file(key: str, requires: dict[str, Any], value: Any) -> None:
    changes = {**requires, key: value}
    text = {k: v if isinstance(v, str) else yaml.safe_dump(v).removesuffix("...\n") for k, v in changes.items()}
    assert TrainConfig.load(None, text) == TrainConfig().replace(changes)


# --- refusals


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("optim.learn_rate", "optim."),
        ("optm.lr", "optim.lr"),
        ("lr", "optim.lr"),
        ("loss.star_wieght", "loss.star_weight"),
        ("data.augment.rotatoin", "data.augment.rotation"),
        ("data.augmnet.flip", "data.augment.flip"),
        ("run.thread", "run.threads"),
        ("optim", "optim."),
        ("optim.lr.top", "optim.lr"),
    ],
)
def test_an_unknown_override_names_the_nearest_key(key: str, near: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(None, {key: "3"})
    assert str(error.value).startswith(f"{key}: unknown setting (nearest valid key: {near}")


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("optim: {lrr: 1e-3}", "optim.lrr", "optim.lr"),
        ("lr: 1e-3", "lr", "optim.lr"),
        ("data: {augment: {rotatoin: 3}}", "data.augment.rotatoin", "data.augment.rotation"),
        ("loss: {star_wight: 3}", "loss.star_wight", "loss.star_weight"),
    ],
)
def test_an_unknown_key_in_a_file_names_the_nearest_key(tmp_path: Path, text: str, key: str, near: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(path)
    assert str(error.value) == f"{path}: {key}: unknown setting (nearest valid key: {near})"


def test_an_unknown_key_in_replace_names_the_nearest_key() -> None:
    with pytest.raises(ConfigError, match=r"optim\.lrr: unknown setting \(nearest valid key: optim\.lr\)"):
        TrainConfig().replace({"optim.lrr": 1e-3})


@pytest.mark.parametrize(
    ("key", "text", "shown", "allowed"),
    [
        ("optim.epochs", "3.5", "3.5", "valid integer"),
        ("optim.epochs", "3.0", "3.0", "valid integer"),
        ("optim.epochs", "true", "True", "valid integer"),
        ("optim.epochs", "0", "0", "greater than or equal to 1"),
        ("optim.lr", "fast", "'fast'", "valid number"),
        ("optim.lr", "null", "None", "valid number"),
        ("optim.lr", "", "None", "valid number"),
        ("optim.lr", "[1]", "[1]", "valid number"),
        ("optim.lr", "0", "0", "greater than 0"),
        ("optim.lr", ".nan", "nan", "finite number"),
        ("optim.lr", ".inf", "inf", "finite number"),
        ("optim.lr", "1e400", "inf", "finite number"),
        ("optim.ema_decay", "1", "1", "less than 1"),
        ("optim.warmup_from", "2", "2", "less than or equal to 1"),
        ("optim.milestones", "3", "3", "tuple"),
        ("run.flip_test", "1", "1", "valid boolean"),
        ("run.device", "gpu", "'gpu'", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("model.backbone", "resnet19", "'resnet19'", "'resnet18', 'resnet34', 'resnet50' or 'resnet101'"),
        ("loss.star_weight", "-1", "-1", "greater than or equal to 0"),
        ("data.image_size", "64px", "'64px'", "valid integer"),
        ("data.image_size", "48", "48", "multiple of 32"),
        ("data.image_size", "2048", "2048", "less than or equal to 1024"),
        ("data.val_fraction", "1", "1", "less than 1"),
        ("data.augment.flip", "1.1", "1.1", "less than or equal to 1"),
        ("data.workers", "-1", "-1", "greater than or equal to 0"),
        ("run.seed", "-1", "-1", "greater than or equal to 0"),
    ],
)
def test_a_misfit_names_field_value_and_what_is_allowed(key: str, text: str, shown: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(None, {key: text})
    message = str(error.value)
    assert f"{key} = {shown}: " in message
    assert allowed in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changes", "named", "reason"),
    [
        ({"data.root": "/x"}, "data.root = '/x'", "synthetic reads no files"),
        ({"data.train_list": "a"}, "data.train_list = 'a'", "synthetic reads no files"),
        ({"data.val_list": "a"}, "data.val_list = 'a'", "synthetic reads no files"),
        ({"data.test_list": "a"}, "data.test_list = 'a'", "synthetic reads no files"),
        ({"data.layout": "w300_68"}, "data.layout = 'w300_68'", "synthetic always has layout wflw98"),
        ({**WFLW, "data.layout": "aflw19"}, "data.layout = 'aflw19'", "wflw always has layout wflw98"),
        ({**WFLW, "data.synthetic_seed": 1}, "data.synthetic_seed = 1", "wflw draws no faces"),
        ({"data.kind": "w300"}, "data.root", "w300 needs the folder"),
        ({"model.deconv_layers": 2}, "model.deconv_layers = 2", "head pyramid has no deconvolutions"),
        (
            {"model.head": "regression", "loss.name": "wing", "model.width": 64},
            "model.width = 64",
            "no head channels",
        ),
        (
            {"model.head": "regression", "loss.name": "wing", "model.deconv_layers": 2},
            "model.deconv_layers = 2",
            "head regression has no deconvolutions",
        ),
        ({"model.head": "regression"}, "loss.name = 'star'", "needs a heatmap"),
        ({"loss.name": "wing", "loss.star_weight": 2.0}, "loss.star_weight = 2.0", "wing has no such term"),
        ({"loss.name": "smooth_l1", "loss.distance": "l1"}, "loss.distance = 'l1'", "smooth_l1 has no such term"),
        ({"optim.milestones": [3]}, "optim.milestones = (3,)", "cosine has no milestones"),
        ({"optim.schedule": "constant", "optim.gamma": 0.5}, "optim.gamma = 0.5", "constant has no milestones"),
        ({"optim.warmup_from": 0.5}, "optim.warmup_from = 0.5", "warmup_steps is 0"),
        ({**MULTISTEP, "optim.milestones": [7, 3]}, "optim.milestones = [7, 3]", "must rise"),
        ({**MULTISTEP, "optim.milestones": [3, 3]}, "optim.milestones = [3, 3]", "must rise"),
        ({**MULTISTEP, "optim.milestones": [30]}, "optim.milestones = [30]", "between 1 and optim.epochs - 1 (29)"),
        ({**MULTISTEP, "optim.milestones": [0]}, "optim.milestones = [0]", "between 1 and"),
        ({**MULTISTEP, "optim.milestones": [1.5]}, "optim.milestones.0 = 1.5", "valid integer"),
    ],
)
def test_what_cannot_apply_is_refused(changes: dict[str, Any], named: str, reason: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig().replace(changes)
    assert named in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize("loss", ["smooth_l1", "wing", "soft_wing"])
@pytest.mark.parametrize("head", ["pyramid", "deconv", "regression"])
def test_coordinate_losses_go_with_every_head(head: str, loss: str) -> None:
    config = TrainConfig().replace({"model.head": head, "loss.name": loss})
    assert (config.model.head, config.loss.name) == (head, loss)


def test_all_faults_of_a_file_come_at_once_a_line_each(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "optim: {lr: -1, epochs: x}\nrun: {sede: 3}\n")
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(path)
    lines = str(error.value).splitlines()
    assert [key in line for key, line in zip(["optim.lr", "optim.epochs", "run.sede"], lines, strict=True)]
    assert all(["optim.lr = -1" in lines[0], "optim.epochs = 'x'" in lines[1], "run.seed" in lines[2]])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("optim: {lr: 1e-3, lr: 1e-2}", "lr: given twice"),
        ("optim: {lr: 1e-3}\nrun: {seed: 1}\noptim: {epochs: 3}\n", "optim: given twice"),
        ("optim: {lr: 1e-3", "is not valid YAML"),
        ("? [1]\n: 2", "is not valid YAML"),
        ("run: {output: !!python/object/apply:os.getcwd []}", "is not valid YAML"),
        ("- optim", "must hold a mapping of settings, but holds list"),
        ("optim", "must hold a mapping of settings, but holds str"),
        ("optim: 3", "optim = 3: input should be a valid dictionary"),
        ("optim: {1: 2}", "keys should be strings"),
        ("optim: {lr: '1e-3'}", "optim.lr = '1e-3': input should be a valid number"),
        ("data: {root: 2024-01-01}", "data.root = datetime.date(2024, 1, 1): input should be a valid string"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = write(tmp_path / "a.yaml", text)
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(path)
    assert str(error.value).startswith(f"{path}: ")
    assert reason in str(error.value)


def test_an_override_inside_something_else_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "optim: 3\n")
    with pytest.raises(ConfigError, match=r"optim\.lr: optim holds 3"):
        TrainConfig.load(path, {"optim.lr": "1e-3"})


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00optim"])
def test_a_missing_or_binary_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read as a config file"):
        TrainConfig.load(path)


TEXTS = ["", "null", "true", "no", "0", "1", "-1", "3", "64", "1e-3", "1e400", ".nan", "-.inf", "0x10", "1_0", "12:30"]
TEXTS += [
    "[1, 2]",
    "[2, 1]",
    "[]",
    "{a: 1}",
    "{a: 1, a: 2}",
    "[",
    "}",
    "'",
    '"',
    "&a [*a]",
    "*b",
    "? [1]",
    "!!python/x",
]
TEXTS += [
    "2024-01-01",
    "2024-13-45",
    "wing",
    "regression",
    "multistep",
    "deconv",
    "constant",
    "coco",
    "w300_68",
    "\0",
    "é",
]
TEXTS += ["9" * 5000, "[" * 100, "- a", "a: b: c", "%", "@x", "!!int x", "!!float x", "=", "<<", "|", "> x"]


def test_random_overrides_give_a_config_or_a_config_error() -> None:
    rng = random.Random(7)
    keys = [*FIELDS, "optim", "optim.lrr", "", ".", "optim.", "data.augment", "x" * 300]
    outcomes = {True: 0, False: 0}
    for _ in range(1500):
        overrides = {rng.choice(keys): rng.choice(TEXTS) for _ in range(rng.randint(1, 3))}
        try:
            config = TrainConfig.load(None, overrides)
        except ConfigError:
            outcomes[False] += 1
        else:
            assert TrainConfig.from_tree(config.tree()) == config
            outcomes[True] += 1
    assert min(outcomes.values()) > 30, outcomes


# --- what identifies a run


def test_with_threads_writes_down_the_threads_and_nothing_else() -> None:
    config = TrainConfig()
    filled = config.with_threads()
    assert filled.run.threads == available_cores()
    assert filled.replace({"run.threads": None}) == config
    assert filled.with_threads() is filled
    assert config.replace({"run.threads": 3}).with_threads().run.threads == 3


@pytest.mark.parametrize(("key", "requires", "value"), [(k, r, v) for k, (r, v) in KNOBS.items()])
def test_identity_changes_with_all_that_decides_the_numbers(key: str, requires: dict[str, Any], value: Any) -> None:
    before, after = TrainConfig().replace(requires), TrainConfig().replace({**requires, key: value})
    assert value_of(before, key) != value_of(after, key)
    assert (before.identity() == after.identity()) == (key in ON_THE_OUTSIDE)


def test_identity_of_runs_before_younger_settings_stays() -> None:
    assert TrainConfig().identity() == IDENTITY


@pytest.mark.parametrize(
    ("faces", "batch", "size", "named"),
    [(None, 1, 32, "optim.batch_size = 1"), (1, 8, 32, "data.train_faces = 1"), (1, 1, 64, None), (2, 2, 32, None)],
)
def test_batches_too_small_for_batch_norm_are_refused(faces: int | None, batch: int, size: int, named) -> None:
    values = {"data.train_faces": faces, "optim.batch_size": batch, "data.image_size": size}
    if named is None:
        TrainConfig().replace(values)
        return
    with pytest.raises(ConfigError, match=named):
        TrainConfig().replace(values)


def test_identity_is_the_same_in_another_process() -> None:
    code = "from trainer.config import TrainConfig; print(TrainConfig().identity())"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == TrainConfig().identity()


@pytest.mark.parametrize(
    ("changes", "layout"),
    [
        ({}, "wflw98"),
        (WFLW, "wflw98"),
        ({"data.kind": "w300", "data.root": "/x"}, "w300_68"),
        ({"data.kind": "coco", "data.root": "/x"}, "wflw98"),
        ({"data.kind": "coco", "data.root": "/x", "data.layout": "cofw29"}, "cofw29"),
    ],
)
def test_layout_of_a_reader(changes: dict[str, Any], layout: str) -> None:
    assert TrainConfig().replace(changes).data.landmarks.name == layout


def test_the_cache_lies_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert TrainConfig().data.cache_folder == Path("/elsewhere/starsweep")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert TrainConfig().data.cache_folder == Path.home() / ".cache" / "starsweep"
    assert TrainConfig().replace({"data.cache_dir": "/here"}).data.cache_folder == Path("/here")


# --- the command line


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "1000"}
    command = [sys.executable, "-m", "trainer.train", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def test_help_lists_every_field_with_meaning_and_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    text = " ".join(done.stdout.split("data settings:")[1].split())
    for key, info in FIELDS.items():
        assert info.description
        start = text.index(f"--{key} V {info.description} {{")
        shown = text[start:].split("[default: ", 1)[1].split(" --", 1)[0].split("] ", 1)[0].removesuffix("]")
        default = list(info.default) if isinstance(info.default, tuple) else info.default
        assert yaml.safe_load(shown or "null") == default, key


@pytest.mark.parametrize("spelling", ["--data.train_faces=7", "--data.train-faces=7"])
def test_settings_may_be_spelled_with_hyphens(spelling: str) -> None:
    parser = train.build_parser()
    assert parser.overrides(parser.parse([spelling])) == {"data.train_faces": "7"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--optim.lrr", "1"], ["--optim.lrr", "nearest valid key: optim.lr"]),
        (["--optim.lrr=1"], ["--optim.lrr", "nearest valid key: optim.lr"]),
        (["--optim.lr", "fast"], ["optim.lr", "'fast'", "valid number"]),
        (["--optim.lr", "-1"], ["optim.lr = -1", "greater than 0"]),
        (["--optim.lr"], ["--optim.lr", "expected one argument"]),
        (["--model.head", "regression"], ["loss.name = 'star'", "smooth_l1, wing, soft_wing"]),
        (["nowhere.yaml"], ["nowhere.yaml", "cannot be read"]),
        (["a.yaml", "b.yaml"], ["b.yaml"]),
        (["--resume", "nowhere"], ["config.yaml", "cannot be read"]),
        (["--resume", "nowhere", "--optim.lr", "1"], ["--resume", "no other setting"]),
    ],
)
def test_bad_input_ends_with_code_2_and_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], named: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(arguments)
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 1
    for text in named:
        assert text in printed.err


def test_bad_input_in_a_process_of_its_own() -> None:
    done = run("--optim.lrr", "1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["!!map [1]", "!!bool x", "!!timestamp x", "!!int ''"])
def test_a_yaml_tag_that_does_not_fit(text: str) -> None:
    with pytest.raises(ConfigError):
        TrainConfig.load(None, {"optim.lr": text})

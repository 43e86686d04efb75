"""Broken configs, sweep files and command lines by the thousand: each loads whole or is refused by name, none hangs."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import PATIENCE

from sweep import run
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from trainer import evaluate, predict, train
from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.settings import fields, read_yaml, write_yaml

TRAIN_FILES, TRAIN_TEXTS, TRAIN_OVERRIDES, SWEEP_FILES, SWEEP_TEXTS, SWEEP_OVERRIDES = (
    3000,
    2500,
    2500,
    1500,
    1000,
    1000,
)
TREES, PATHS, COMMANDS = 400, 400, 500
GENERATED = settings(derandomize=True, database=None, deadline=None)
TRAIN_KEYS = [key for key, _ in fields(TrainConfig)]
SWEEP_KEYS = [key for key, _ in fields(SweepConfig)]
NAMES = {name for key in (*TRAIN_KEYS, *SWEEP_KEYS) for name in (key, *key.split("."))}

NUMBERS = ["0", "1", "3", "-1", "0.5", "1e-3", "1e400", "-1e400", ".nan", ".inf", "-.inf", "0x10", "1_0", "010", "1:30"]
NUMBERS += ["9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 5000, str(2**63), str(2**63 - 1), "1e308", "5e-324", "-0.0"]
TEXTS = [
    "",
    "''",
    "null",
    "~",
    "true",
    "no",
    "wing",
    "regression",
    "multistep",
    "deconv",
    "coco",
    "synthetic",
    "resnet18",
]
TEXTS += [
    "'1'",
    "../../x",
    "/",
    ".",
    "é 😀 \u00a0",
    "\ufeff",
    '"\\0"',
    '"\\ud800"',
    '"\\x85"',
    '"\\u2028"',
    '"a\\rb"',
    "x" * 300,
]
TEXTS += [
    "a\tb",
    '"\\t"',
    "'a''b'",
    "'#'",
    "a # b",
    "- x",
    "|\n  a",
    "> a",
    "@x",
    "%x",
    "`x`",
    "2024-01-01",
    "2024-99-99",
]
NESTED = [
    "[]",
    "{}",
    "[1, 2]",
    "[2, 1]",
    "[3, 7]",
    "[[1]]",
    "{a: 1}",
    "{a: 1, a: 2}",
    "[" * 50 + "]" * 50,
    "{1: 2}",
    "? [1]",
]
NESTED += ["&a [*a]", "*b", "[&a x, *a]", "{<<: {a: 1}}", "[", "}", "'", '"', "- a", "a: b: c", "[" * 99]
TAGS = [
    "!!python/object:os.system {}",
    "!!python/object/apply:os.getcwd []",
    "!!python/name:os.system",
    "!!null 7",
    "!x y",
]
TAGS += ["!!set {3, 7}", "!!omap [a: 1]", "!!binary aGk=", "!!int x", "!!int ''", "!!float '1'", "!!str 3", "!!bool x"]
TOKENS = [*NUMBERS, *TEXTS, *NESTED, *TAGS]
PLAUSIBLE = ["1", "2", "0.5", "64", "true", "null", "/x", "l1", "star", "cpu", "adamw", "1e-3", "multistep", "[2, 4]"]
BOMB = "&a0 [x, x]" + "".join(f", &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30))
UNKNOWN = ["optim.lrr", "optm.lr", "lr", "x" * 300, "é", "optim.lr.top", "1", "true", "data.augment.", ".", "..", "''"]

GOOD_TRAIN = """\
data: {kind: wflw, root: /faces, image_size: 64, augment: {flip: 0.5, rotation: 20}}
model:
  backbone: resnet18
  head: pyramid
loss: {name: star, star_weight: 2.5}
optim: {lr: 1e-3, schedule: multistep, milestones: [3, 7], epochs: 12}
run: {seed: 3, threads: null, output: "runs/a b"}
"""
GOOD_SWEEP = """\
name: faces
trials: 4
space:
  optim.lr: {log_uniform: [1e-4, 1e-2]}
  optim.batch_size: {int: [4, 8]}
  loss.distance: {choice: [l1, l2]}
known: [{optim.lr: 1e-3}, {loss.distance: l2}]
sampler: {name: random}
train: {optim: {epochs: 3}, data: {image_size: 64}}
"""
SPACE = "space: {optim.lr: {uniform: [0.1, 0.2]}}\n"

Load = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def leaves(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*prefix, str(key)))
    else:
        yield prefix, list(tree) if isinstance(tree, tuple) else tree


class Checked:
    """Loads inputs and counts them; fails where one neither loads whole nor is refused by one clear message."""

    def __init__(self, folder: Path, load: Load) -> None:
        self.load, self.again = load, folder / "again.yaml"
        self.loaded = self.refused = 0
        self._seen: set[str] = set()

    def __call__(self, path: Path) -> Any:
        try:
            config = self.load(path)
        except ConfigError as error:
            self.refused += 1
            assert_clear(str(error), path)
            return None
        self.loaded += 1
        tree = json.dumps(config.tree())
        if tree not in self._seen:
            self._seen.add(tree)
            config.dump(self.again)
            assert self.load(self.again) == config
        return config

    @property
    def total(self) -> int:
        return self.loaded + self.refused


def assert_clear(message: str, path: Path | None) -> None:
    """The message names the file and what is wrong there: a setting, a line, or the file as a whole."""
    assert len(message) < 8000
    assert len(message.splitlines()) <= 21
    assert message.isprintable() or "\n  " in message
    whole = (
        r"must hold a mapping|cannot be read as a config file|recursion depth|is not valid YAML: unacceptable character"
    )
    found = re.search(rf"line \d+|unknown setting|keys should be strings|unicode string|{whole}", message)
    named = any(re.search(rf"(?<![\w.]){re.escape(name)}(\[\d+\])?( =|:|\.| \()", message) for name in NAMES)
    assert named or (found and found[0] == "unknown setting") or (found and (path is None or str(path) in message)), (
        message
    )


def assert_nothing_ignored(text: bytes, config: Any) -> None:
    """Every key that a plain YAML reader sees is a key of the config, with its value."""
    given = dict(leaves(yaml.load(text.decode("utf-8-sig"), yaml.BaseLoader) or {}))
    there = dict(leaves(config.tree()))
    for key in given:
        assert key in there or any(k[: len(key)] == key for k in there) or given[key] == "", key
    for key, text_value in given.items():
        if isinstance(there.get(key), str) and isinstance(text_value, str):
            assert there[key] == text_value


def random_tree(rng: random.Random, keys: list[str]) -> str:
    """A file with one to three settings, known or not, that hold junk."""
    lines = []
    for _ in range(rng.choice([1, 1, 2])):
        *sections, leaf = rng.choice(keys if rng.random() < 0.95 else UNKNOWN).split(".")
        text = f"{leaf}: {rng.choice(rng.choice([PLAUSIBLE, TOKENS, [f'[{BOMB}]', *TOKENS]]))}"
        for section in reversed(sections):
            text = f"{section}: {{{text}}}"
        lines.append(text)
    return "\n".join(lines) + "\n"


def broken(rng: random.Random, text: str) -> bytes:
    """The text with one to four faults of bytes, characters, lines or words."""
    data = text.encode()
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, lines = rng.randrange(len(data) + 1), data.splitlines(keepends=True)
        match rng.randrange(8):
            case 0:
                data = (
                    data[:at]
                    + rng.choice([b"\t", b"\0", b"\xff", b"\r", b"\xc2\x85", b":", b"[", b"}", b"'", b"#", b"&", b"*"])
                    + data[at:]
                )
            case 1:
                data = data[:at]
            case 2:
                data = data[:at] + data[at + rng.randint(1, 4) :]
            case 3:
                data += rng.choice(lines or [b""])  # a key given twice
            case 4:
                rng.shuffle(lines)
                data = b"".join(lines)
            case 5:
                words = re.split(rb"([\w./-]+)", data)
                words[rng.randrange(0, len(words))] = rng.choice(TOKENS).encode("utf-8", "surrogatepass")
                data = b"".join(words)
            case 6:
                data = data.replace(b"\n", b"\r\n")
            case _:
                data = data[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 3))) + data[at:]
    return data


def load_sweep_file(path: Path) -> SweepConfig:
    return load_sweep(path, {})


def test_trainer_files_with_junk_in_their_settings(tmp_path: Path) -> None:
    rng, check, path = random.Random(1), Checked(tmp_path, TrainConfig.load), tmp_path / "a.yaml"
    for _ in range(TRAIN_FILES):
        text = random_tree(rng, TRAIN_KEYS)
        path.write_text(text, encoding="utf-8", newline="")
        config = check(path)
        if config is not None:
            assert_nothing_ignored(text.encode(), config)
    assert check.total == TRAIN_FILES
    assert min(check.loaded, check.refused) > 100, (check.loaded, check.refused)


def test_broken_text_of_trainer_files(tmp_path: Path) -> None:
    rng, check, path = random.Random(2), Checked(tmp_path, TrainConfig.load), tmp_path / "a.yaml"
    for _ in range(TRAIN_TEXTS):
        data = broken(rng, GOOD_TRAIN)
        path.write_bytes(data)
        config = check(path)
        if config is not None:
            assert_nothing_ignored(data, config)
    assert check.total == TRAIN_TEXTS
    assert min(check.loaded, check.refused) > 100, (check.loaded, check.refused)


def test_sweep_files_with_junk_in_their_settings(tmp_path: Path) -> None:
    rng, check, path = random.Random(3), Checked(tmp_path, load_sweep_file), tmp_path / "a.yaml"
    kinds = ["uniform", "log_uniform", "int", "log_int", "choice", "normal", "1"]
    for number in range(SWEEP_FILES):
        if number % 3:
            values = ", ".join(
                rng.choice(rng.choice([PLAUSIBLE, NUMBERS + TEXTS[:13]])) for _ in range(rng.randint(1, 3))
            )
            values = values if rng.random() < 0.5 else rng.choice(["1e-3, 1", "1, 64", "1, 2"])
            key = rng.choice(TRAIN_KEYS if rng.random() < 0.8 else [*UNKNOWN, "run.seed", "optim.epochs", "optim"])
            text = f"space: {{{key}: {{{rng.choice(kinds)}: [{values}]}}}}\n"
            text += f"known: [{{{rng.choice([key, 'optim.lr'])}: {rng.choice(NUMBERS + TEXTS[:13])}}}]\n" * rng.randint(
                0, 1
            )
        else:
            text = SPACE + random_tree(rng, [key for key in SWEEP_KEYS if key != "space"])
        path.write_text(text, encoding="utf-8", newline="")
        check(path)
    assert check.total == SWEEP_FILES
    assert min(check.loaded, check.refused) > 30, (check.loaded, check.refused)


def test_broken_text_of_sweep_files(tmp_path: Path) -> None:
    rng, check, path = random.Random(4), Checked(tmp_path, load_sweep_file), tmp_path / "a.yaml"
    for _ in range(SWEEP_TEXTS):
        path.write_bytes(broken(rng, GOOD_SWEEP))
        check(path)
    assert check.total == SWEEP_TEXTS
    assert min(check.loaded, check.refused) > 50, (check.loaded, check.refused)


@pytest.mark.parametrize(
    ("count", "keys", "load"),
    [
        (TRAIN_OVERRIDES, TRAIN_KEYS, TrainConfig.load),
        (SWEEP_OVERRIDES, SWEEP_KEYS, load_sweep),
    ],
    ids=["trainer", "sweep"],
)
def test_overrides_of_junk(
    tmp_path: Path, count: int, keys: list[str], load: Callable[[Path, dict[str, str]], Any]
) -> None:
    rng, path = random.Random(5), tmp_path / "a.yaml"
    path.write_text(SPACE if load is load_sweep else "{}\n")
    overrides: dict[str, str] = {}
    check = Checked(tmp_path, lambda file: load(file, overrides if file == path else {}))
    for _ in range(count):
        chosen = rng.choices(keys if rng.random() < 0.95 else UNKNOWN, k=rng.choice([1, 1, 2]))
        overrides = {key: rng.choice(rng.choice([PLAUSIBLE, [*TOKENS, f"[{BOMB}]"]])) for key in chosen}
        config = check(path)
        for key, text in overrides.items() if config is not None else ():
            *sections, leaf = key.split(".")
            section: Any = config
            for name in sections:
                section = getattr(section, name)
            value = getattr(section, leaf)
            assert (value is None) <= (text in ("null", "~")), f"{key} = {text!r} was dropped"
            own = key == "train.run.threads"  # null: as many as resources.cpus
            assert value is None or own or text not in ("null", "~") or str(value).endswith(text)
    assert check.total == count
    assert min(check.loaded, check.refused) > 50, (check.loaded, check.refused)


def test_generated_trees_and_texts(tmp_path: Path) -> None:
    check, path = Checked(tmp_path, TrainConfig.load), tmp_path / "a.yaml"
    scalar = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.dates()
        | st.binary(max_size=4)
    )
    junk = st.recursive(
        scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    )
    names = st.sampled_from(sorted({name for key in TRAIN_KEYS for name in key.split(".")}))

    @settings(GENERATED, max_examples=TREES)
    @given(st.dictionaries(names, junk | st.dictionaries(names, junk, max_size=3), max_size=3))
    def trees(tree: dict[str, Any]) -> None:
        write_yaml(tree, path)
        check(path)

    @settings(GENERATED, max_examples=PATHS)
    @given(st.text(st.characters(codec=None, exclude_categories=())), st.sampled_from(["output", "cache_dir"]))
    def paths(text: str, leaf: str) -> None:
        section = "run" if leaf == "output" else "data"
        path.write_text(f"{section}: {{{leaf}: {json.dumps(text)}}}")
        config = check(path)
        if config is not None:
            assert getattr(getattr(config, section), leaf) == read_yaml(path)[section][leaf]

    trees()
    paths()
    assert check.total == TREES + PATHS
    assert check.refused > 100


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"optim: {{lr: [{BOMB}]}}", "line 1: holds more than 20000 values"),
        ("\n".join(f"k{i}: 1" for i in range(200_000 // 10)), "line 10001: holds more than 20000 values"),
        ("\n".join(f"k{i}: 1" for i in range(9_000)), "and 8980 faults more"),
        ("[" * 3000, "maximum recursion depth"),
        ("\noptim: &a {lr: *a}", "line 2: the alias *a stands inside of what it names"),
        ("optim: {lr: 1.0,\n lr: 2.0}", "line 2: lr: given twice"),
        ("run: {output: !!null here}", "line 1: the tag tag:yaml.org,2002:null is not read"),
        ("\noptim: {epochs: 0x" + "f" * 5000 + "}", "line 2: an integer must lie within +-2^63"),
        ("\nrun: {output: 2024-99-99}", "line 2: month must be in 1..12"),
        ('run: {output: "a\\0b"}', "run.output = 'a\\x00b': must be printable text, but holds '\\x00'"),
        ("optim: {lr: " + "x" * 1_000_000 + "}", "(1000002 characters): input should be a valid number"),
    ],
)
def test_what_would_hang_vanish_or_fill_the_screen_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        TrainConfig.load(path)
    assert reason in str(error.value)
    assert_clear(str(error.value).partition("\n")[0], path)


@pytest.mark.parametrize(
    "key", ["output", "train.data.root", "train.data.cache_dir", "train.model.pretrained", "mlflow_uri"]
)
def test_the_home_of_nobody_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.yaml").write_text(SPACE)
    text = "sqlite:///~no-such-user/a.db" if key == "mlflow_uri" else "~no-such-user/a"
    with pytest.raises(ConfigError, match=key.rsplit(".", 1)[-1]):
        load_sweep(tmp_path / "a.yaml", {key: text} | ({"train.data.kind": "wflw"} if "root" in key else {}))


def test_a_choice_of_thousands_is_refused_before_each_is_tried(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"space: {{optim.batch_size: {{choice: {list(range(1, 15000))}}}}}\n")
    with pytest.raises(ConfigError, match=r"space\.optim\.batch_size\.choice: has 14999 values"):
        load_sweep(tmp_path / "a.yaml", {})


def test_a_seed_that_no_sampler_takes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SPACE)
    with pytest.raises(ConfigError, match="seed = 4294967296: "):
        load_sweep(tmp_path / "a.yaml", {"seed": str(2**32)})


# --- command lines


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts counters in the place of training and of sweeping, so that a command line that is right ends at once."""
    started: list[str] = []
    session = types.ModuleType("sweep.driver.session")

    class SweepRun:
        def __init__(self, *_: object) -> None: ...

        def run(self) -> int:
            started.append("sweep")
            return 0

    session.SweepRun = SweepRun  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sweep.driver.session", session)
    monkeypatch.setattr(train, "_train", lambda *_: started.append("train") or 0)
    return started


def assert_refused(main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    printed = capsys.readouterr()
    prefix = f"python -m {main.__module__}: "
    assert printed.out == ""
    assert printed.err.startswith(prefix), arguments
    assert printed.err.count(prefix) == 1
    assert "Traceback" not in printed.err
    assert len(printed.err) < 9000


def test_command_lines_of_junk(tmp_path: Path, nothing_starts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    rng, refused = random.Random(6), 0
    (tmp_path / "train.yaml").write_text(GOOD_TRAIN)
    (tmp_path / "sweep.yaml").write_text(GOOD_SWEEP)
    for name in ("train", "sweep"):
        (tmp_path / f"broken-{name}.yaml").write_text("\t{")
    for number in range(COMMANDS):
        main, name, keys = [(train.main, "train", TRAIN_KEYS), (run.main, "sweep", SWEEP_KEYS)][number % 2]
        files = [f"{name}.yaml"] * 6 + ["none.yaml", ".", f"broken-{name}.yaml", ""]
        arguments = [rng.choice(files)][: rng.randint(0, 3)]
        for _ in range(rng.randint(0, 2)):
            option = f"--{rng.choice(keys if rng.random() < 0.8 else UNKNOWN)}"
            value = rng.choice([token for token in TOKENS if "\0" not in token])
            arguments += rng.choice([[option, value], [option], [f"{option}={value}"], [value]])
        code: Any = None
        try:
            code = main(arguments)
            capsys.readouterr()
        except SystemExit as ended:
            code = ended.code
            assert_refused(main, arguments, capsys)
        refused += code == 2
        assert code in (0, 2), arguments
    assert refused + len(nothing_starts) == COMMANDS
    assert refused > COMMANDS // 3
    assert len(nothing_starts) > COMMANDS // 20


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (train.main, ["--resume", "nowhere"]),
        (train.main, ["--resume", ".", "--optim.lr", "1"]),
        (train.main, ["--resume"]),
        (run.main, ["--dry-run=3"]),
        (run.main, ["one.yaml", "two.yaml"]),
        (evaluate.main, []),
        (evaluate.main, ["run", "--split", "train"]),
        (evaluate.main, ["run", "--optim.lr", "3"]),
        (predict.main, []),
        (predict.main, ["best.pt", "a.jpg"]),
        *(
            (predict.main, ["best.pt", "a.jpg", "--out", "o", f"--box={box}"])
            for box in ["", "1", "0,0,nan,9", "9,9,0,0"]
        ),
        *(
            (predict.main, ["best.pt", "a.jpg", "--out", "o", f"--box={box}"])
            for box in ["0,0,1e9,1e9", "0,0,1e-9,1e-9"]
        ),
    ],
)
def test_commands_that_cannot_start_end_with_two(
    main: Callable[[list[str]], int],
    arguments: list[str],
    nothing_starts: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert_refused(main, arguments, capsys)
    assert not nothing_starts


def test_an_argument_that_is_no_text_gives_one_message(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.train", b"--run.output", b"\xff\xfe"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert b"run.output" in done.stderr
    assert b"Traceback" not in done.stderr


def test_ten_thousand_configs_are_tried() -> None:
    assert TRAIN_FILES + TRAIN_TEXTS + TRAIN_OVERRIDES + SWEEP_FILES + SWEEP_TEXTS + SWEEP_OVERRIDES >= 10_000

"""What all commands share: help, completion in a shell, and colours only where somebody sees them."""

import os
import pty
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from waiting import PATIENCE
from written_sweeps import begun

from sweep import __main__ as starsweep
from sweep.core.config_file import load_sweep
from sweep.core.errors import RerunError
from sweep.core.trial import State
from sweep.driver.command_line import run_command
from trainer.errors import ConfigError
from trainer.settings import ArgumentParser

# --help

OPTIONS = {
    "simulate": ["--curves", "--metric", "--compare", "--repeats", "--save-curves", "--out"],
    "run": ["SWEEP.yaml", "--dry-run", "--on-end", "--trials", "--train.optim.lr", "--mlflow_uri", "STARSWEEP_NAME"],
    "report": ["NAME", "--output", "--out"],
    "rerun": ["NAME", "--trial", "--seeds", "--final", "--again", "--output", "--mlflow_uri"],
    "recipes": ["--out"],
    "card": ["NAME", "--output", "--no-register"],
    "sync": ["NAME", "--output", "--mlflow_uri"],
    "train": ["--resume", "--optim.lr", "--data.train_on"],
    "evaluate": ["RUN_DIR_OR_CKPT", "--split", "--json", "--data.root"],
    "predict": ["--out", "--box"],
    "show": ["--split", "--augmented"],
    "export": ["--format", "--out"],
}


@pytest.fixture(scope="module")
def helped():
    """What each command says of itself, two at a time, and what it imported for that."""

    def ask(name: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-X", "importtime", "-m", "sweep", name, "--help"]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(starsweep.COMMANDS, pool.map(ask, starsweep.COMMANDS), strict=True))


def test_the_table_of_commands_is_complete():
    assert set(OPTIONS) == set(starsweep.COMMANDS)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_explains_itself_without_delay(helped, name):
    ended = helped[name]
    assert ended.returncode == 0
    imports = [line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")]
    assert len(imports) == len(ended.stderr.splitlines())
    assert "trainer.settings" in imports
    assert not {"torch", "torchvision", "ray", "mlflow"} & set(imports)  # seconds each
    assert "\x1b" not in ended.stdout
    for option in [*OPTIONS[name], f"python -m {starsweep.COMMANDS[name][0]}"]:
        assert option in ended.stdout


def test_all_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        starsweep.main(["--help"])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    for name, (module, text) in starsweep.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)} \(python -m {re.escape(module)}\)$", told, re.MULTILINE)
    assert starsweep.main([]) == 2
    assert capsys.readouterr().out == told


def test_a_misspelt_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as ended:
        starsweep.main(["rum"])
    assert ended.value.code == 2
    assert "rum" in capsys.readouterr().err


# Completion

# What bash does at <TAB>: the words so far in COMP_WORDS, the last of them being completed, the answer in COMPREPLY
TAB = """
source "$1" || exit 3
shift
known=$(complete -p starsweep) || exit 4
function=${known##*-F }; function=${function%% *}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
"$function" starsweep "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    command = [sys.executable, "-m", "sweep", "--print-completion", "bash"]
    path = tmp_path_factory.mktemp("completion") / "starsweep.bash"
    path.write_text(subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ru", ["run"]),
        ("re", ["recipes", "report", "rerun"]),
        ("run --tri", ["--trials"]),
        ("run --train.optim.l", ["--train.optim.lr"]),
        ("run faces.yaml --on", ["--on-end"]),
        ("rerun faces --f", ["--final"]),
        ("evaluate --split t", ["test"]),
        ("--print-completion z", ["zsh"]),
    ],
)
def test_bash_completes_commands_options_and_choices(script, words, found):
    command = ["bash", "--norc", "-c", TAB, "bash", str(script), "starsweep", *words.split()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert sorted(ended.stdout.split()) == found


@pytest.mark.parametrize(("shell", "start"), [("zsh", "#compdef starsweep\n"), ("tcsh", "#"), ("bash", "#")])
def test_every_shell_gets_a_script(capsys, shell, start):
    assert starsweep.main(["--print-completion", shell]) == 0
    text = capsys.readouterr().out
    assert text.startswith(start)
    for name in starsweep.COMMANDS:
        assert name in text
    for option in ("trials", "seeds", "train.optim.lr"):
        assert option in text


def test_an_unknown_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        starsweep.main(["--print-completion", "fish"])
    assert ended.value.code == 2
    assert "bash" in capsys.readouterr().err


# Failures are one message


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (ConfigError("trials = 0: too few"), 2, "prog: trials = 0: too few"),
        (RerunError("seed-0000-1: diverged"), 1, "RerunError: seed-0000-1: diverged"),
        (FileNotFoundError(2, "No such file or directory", "x"), 1, "FileNotFoundError: [Errno 2]"),
        (KeyboardInterrupt(), 130, "the same goes on"),
        (OSError("http://me:pass@host is away"), 1, "OSError: http://***@host is away"),
        (ConfigError("mlflow_uri = http://me:pass@host: wrong"), 2, "http://***@host: wrong"),
    ],
)
def test_a_failure_is_one_message_without_passwords(capsys, error, code, told):
    def fail() -> int:
        raise error

    try:
        ended = run_command(ArgumentParser(prog="prog"), fail, "the same goes on")
    except SystemExit as exit:
        ended = exit.code
    printed = capsys.readouterr()
    assert ended == code
    assert told in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert "pass@" not in printed.err


def test_a_fault_of_the_program_is_told_whole(capsys):
    assert run_command(ArgumentParser(prog="prog"), lambda: 1 // 0, "") == 1
    assert "Traceback" in capsys.readouterr().err
    assert run_command(ArgumentParser(prog="prog"), lambda: 7, "") == 7


# Colours: a finished sweep, started again, runs nothing and shows its table

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")  # a text colour, alone or with others


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a sweep of one trial that is complete, as controller and study leave it."""
    home = tmp_path_factory.mktemp("colours") / "home"
    home.mkdir()
    tree = {"space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}, "trials": 1, "report": False}
    (home / "faces.yaml").write_text(yaml.safe_dump(tree | {"train": {"optim": {"epochs": 3}}}))
    config = load_sweep(home / "faces.yaml", {"output": str(home / "out")})
    with begun(config) as controller:
        controller.next_trial()
        controller.report(0, 3, {"val/nme": 0.1, "best_nme": 0.1, "epoch_seconds": 1.0})
        controller.end(0, State.COMPLETE)
    return home


def shown(home: Path, *, terminal: bool, **environment: str) -> str:
    """What the command prints: into a pipe, or on a terminal."""
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    options = {
        "args": [sys.executable, "-m", "sweep.run", "faces.yaml", "--output", "out"],
        "cwd": home,
        "env": plain | {"TERM": "xterm", "COLUMNS": "120", **environment},
    }
    if not terminal:
        ended = subprocess.run(**options, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
    ours, theirs = pty.openpty()
    process = subprocess.Popen(**options, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    read = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # as Linux says that nobody writes any more
            break
        if not chunk:
            break
        read += chunk
    os.close(ours)
    assert process.wait(PATIENCE) == 0, read
    return read.decode()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
    ],
    ids=["terminal", "terminal NO_COLOR", "pipe FORCE_COLOR"],
)
def test_colours_are_for_terminals_and_can_be_had_or_not(finished, terminal, environment, coloured):
    """Into a plain pipe goes no escape sequence at all: see test_loaded.py, whose sweep is a whole one."""
    text = shown(finished, terminal=terminal, **environment)
    assert "COMPLETE" in text
    assert bool(COLOUR.search(text)) is coloured

"""`--on-end`: a shell command that is run when a sweep ends, to send a message or start the next job."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from sweep.analysis.leaderboard import summary_line
from sweep.analysis.sweep_result import load
from sweep.core.config import SweepConfig
from sweep.core.stop_request import INTERRUPTED
from trainer.errors import ConfigError

HELP = (
    "shell command to run when the sweep has ended, failed or was interrupted; it finds STARSWEEP_NAME, _FOLDER, "
    "_STATE (FINISHED, FAILED, INTERRUPTED), _SUMMARY, _BEST_TRIAL and _BEST_NME in its environment"
)
_TIMEOUT = 120.0  # seconds


@dataclass
class End:
    """The exit code of a sweep; None if an error ended it."""

    code: int | None = None

    @property
    def state(self) -> str:
        return {0: "FINISHED", INTERRUPTED: "INTERRUPTED"}.get(1 if self.code is None else self.code, "FAILED")


@contextlib.contextmanager
def at_end(command: str | None, config: SweepConfig) -> Iterator[End]:
    """Runs the command, if there is one, at the end of the block, even after an error; the block sets `code`."""
    end = End()
    try:
        yield end
    except KeyboardInterrupt:
        end.code = INTERRUPTED
        raise
    finally:
        if command is not None:
            _call(command, {"NAME": config.name, "FOLDER": str(config.folder), "STATE": end.state} | _facts(config))


def hidden(command: str) -> str:
    """A command line without the value of --on-end, which may contain a secret address."""
    if "--on-end" not in command:
        return command
    words = shlex.split(command)
    for i, word in enumerate(words):
        if word.startswith("--on-end="):
            words[i] = "--on-end=***"
        elif i and words[i - 1] == "--on-end":
            words[i] = "***"
    return shlex.join(words)


def _facts(config: SweepConfig) -> dict[str, str]:
    try:
        sweep = load(config.folder)
    except (ConfigError, OSError):  # it never started
        return {"SUMMARY": "", "BEST_TRIAL": "", "BEST_NME": ""}
    best = sweep.best
    known = (
        {"BEST_TRIAL": "", "BEST_NME": ""}
        if best is None
        else {
            "BEST_TRIAL": str(best.number),
            "BEST_NME": repr(best.best_nme),
        }
    )
    return {"SUMMARY": summary_line(list(sweep.records.values()))} | known


def _call(command: str, facts: dict[str, str]) -> None:
    environment = os.environ | {f"STARSWEEP_{key}": value for key, value in facts.items()}
    try:
        code = subprocess.run(command, shell=True, env=environment, timeout=_TIMEOUT, check=False).returncode
        failure = f"exit code {code}" if code else ""
    except (OSError, subprocess.SubprocessError) as error:
        failure = type(error).__name__
    if failure:
        print(f"--on-end: the command failed ({failure})", file=sys.stderr)

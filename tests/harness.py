"""Whole sweeps as their user sees them, and a real MLflow server: what tests of several folders share."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
import yaml
from mlflow.entities import Run
from prepared import copy_empty_store, share_speeds, teach_sweep
from waiting import PATIENCE, wait_for

from sweep.storage.event_log import Event, EventKind, read_events
from sweep.tracking.mlflow_client import connect

MARK = "STARSWEEP_TEST_MARK"
LOCKSTEP = ["train/loss", "val/nme", "val/fr10", "val/auc10", "best_nme", "lr"]
LOCKSTEP += ["images_per_second", "epoch_seconds", "memory_gb"]
TINY = {
    "data": {"image_size": 32, "train_faces": 32, "val_faces": 8, "workers": 0},
    "model": {"backbone": "resnet18", "width": 8},
    "optim": {"epochs": 3, "batch_size": 8},
    "run": {"precision": "float32", "channels_last": True},
}
SPACE = {"optim.lr": {"choice": [1e-3, 1e-6, 1e30]}, "loss.star_weight": {"log_uniform": [0.1, 10]}}
CALM = {
    "space": SPACE,
    "known": [
        {"optim.lr": 1e-3, "loss.star_weight": 1.0},
        {"optim.lr": 1e30, "loss.star_weight": 1.0},
        {"optim.lr": 1e-6, "loss.star_weight": 1.0},
    ],
    "trials": 5,
    "slots": 1,
    "keep": 2,
    "report": False,  # costs seconds, and has tests of its own
    "sampler": {"startup_trials": 3},
    "pruner": {"name": "successive_halving", "pause": False, "min_epochs": 1, "reduction": 2},
    "repeats": {"share": 0},
    "train": TINY | {"data": TINY["data"] | {"train_faces": 16}},
}


class Host(Protocol):
    """Where commands run other than those of the tests: `cluster.Machine`, or a group of processes."""

    def prefix(self, folder: Path) -> list[str]:
        """The words before a command that make it run there, in this folder."""


@dataclass
class Sweep:
    """A sweep as its user sees it: a command to type, and what lies on disk afterwards."""

    home: Path
    name: str = "faces"
    settings: dict = field(default_factory=lambda: CALM)
    mlflow: str | None = None  # URI of the store, if not the one in the output folder
    machine: Host | None = None  # where its command runs, if not here
    as_new: bool = False  # on a machine that knows nothing yet, without MLflow's tables
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.home.mkdir(exist_ok=True)
        (self.home / f"{self.name}.yaml").write_text(yaml.safe_dump(self.settings, sort_keys=False))

    @property
    def output(self) -> Path:
        return self.home / "out"

    @property
    def folder(self) -> Path:
        return self.output / self.name

    @property
    def cache(self) -> Path:
        """A cache folder of its own, but for the speeds of the machine, which all tests share."""
        share_speeds(self.home / "cache")
        return self.home / "cache"

    def words(self, *more: str) -> list[str]:
        more = ("--mlflow_uri", self.mlflow, *more) if self.mlflow else more
        return [str(self.home / f"{self.name}.yaml"), "--output", str(self.output), *more]

    def prepare(self, *more: str) -> None:
        """What is the same at every start and takes seconds each time is there; see `prepared`."""
        if self.as_new:
            return
        teach_sweep(self.words(*more), self.cache)
        if self.mlflow is None and "--dry-run" not in more:
            copy_empty_store(self.output / "mlflow.db")

    def start(self, *more: str, program: Sequence[str] = ("-m", "sweep.run"), **env: str) -> subprocess.Popen:
        """The command in a process group of its own, as from a terminal; `program` may be a script that wraps it."""
        self.prepare(*more)
        prefix = self.machine.prefix(self.home) if self.machine else []
        environment = os.environ | {"XDG_CACHE_HOME": str(self.cache), MARK: self.mark} | env
        return subprocess.Popen(
            [*prefix, sys.executable, "-u", *program, *self.words(*more)],
            cwd=self.home,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background have it ignored
        )

    def run(self, *more: str, **options: Any) -> subprocess.CompletedProcess:
        """The command to its end; options as for `start`."""
        with self.start(*more, **options) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def events(self) -> list[Event]:
        return [event for event, _ in read_events(self.folder / "events.jsonl")]

    def reports(self) -> Counter:
        """How often each epoch of each trial is in the log."""
        return Counter((e.trial, e.data["step"]) for e in self.events() if e.kind is EventKind.REPORT)

    def leaderboard(self) -> list[dict[str, str]]:
        with (self.folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def states(self) -> dict[int, str]:
        return {int(row["number"]): row["state"] for row in self.leaderboard()}

    def counts(self) -> str:
        """How many trials ended in which state, as a sweep says it: "3 complete, 1 pruned"."""
        counts = Counter(self.states().values())
        order = ["COMPLETE", "PRUNED", "DIVERGED", "FAILED"]
        return ", ".join(f"{counts[state]} {state.lower()}" for state in order if counts[state])

    def study(self) -> optuna.Study:
        return optuna.load_study(study_name=self.name, storage=f"sqlite:///{self.folder / 'study.db'}")

    def runs(self) -> dict[int | str | None, Run]:
        """MLflow runs by trial number, the parent under None, reruns by name; fails when one is there twice."""
        client = self.client()
        experiment = client.get_experiment_by_name("starsweep")
        found = client.search_runs([experiment.experiment_id])
        keys = [_key(r.data.tags.get("starsweep.trial")) for r in found]
        assert len(set(keys)) == len(keys), f"runs are there twice: {Counter(keys)}"
        return dict(zip(keys, found, strict=True))

    def client(self):
        return connect(self.mlflow or f"sqlite:///{self.output / 'mlflow.db'}")

    def artifacts(self, run_id: str, folder: str | None = None) -> set[str]:
        return {file.path for file in self.client().list_artifacts(run_id, folder)}

    def wait_until_gone(self) -> None:
        """Waits until nothing that this sweep started is left."""
        wait_for(lambda: not self.living(), lambda: f"all processes gone, left are {self.living()}")

    def living(self) -> dict[int, str]:
        """Processes that this sweep started, or that were started by those: their titles by number."""
        mark, found = f"{MARK}={self.mark}".encode(), {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    zombie = (folder / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                    if mark in (folder / "environ").read_bytes().split(b"\0") and not zombie:
                        title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        found[int(folder.name)] = title[:150].strip()
                except OSError:
                    continue
        return found

    def check(self, trials: int) -> None:
        """Nothing lost, nothing twice: in the study, in the log, in the table, in MLflow."""
        held = self.study().trials
        assert [t.number for t in held] == list(range(trials))
        assert all(t.state.is_finished() for t in held)
        reports = self.reports()
        assert set(reports.values()) == {1}
        assert set(reports) == {(t.number, epoch) for t in held for epoch in t.intermediate_values}
        ends = [e.trial for e in self.events() if e.kind is EventKind.TRIAL_ENDED]
        assert sorted(ends) == list(range(trials))
        assert sorted(self.states()) == list(range(trials))
        runs = self.runs()
        assert set(runs) == {None, *range(trials)}
        assert all(runs[n].data.tags["mlflow.parentRunId"] == runs[None].info.run_id for n in range(trials))
        assert all(r.info.status != "RUNNING" for r in runs.values())
        for trial in held:
            for key in LOCKSTEP:
                points = self.client().get_metric_history(runs[trial.number].info.run_id, key)
                steps = sorted(trial.intermediate_values) or [0] * (key == "best_nme")  # no report: no number
                assert sorted(point.step for point in points) == steps, (trial.number, key)


def call(main: Callable[[Sequence[str]], int], capsys: Any, *words: str) -> tuple[Any, str, str]:
    """A command in this process: its exit code and what it printed, out and err."""
    try:
        code: Any = main(words)
    except SystemExit as ended:
        code = ended.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def _key(tag: str | None) -> int | str | None:
    return int(tag) if tag is not None and tag.isdigit() else tag


def rows(folder: Path) -> list[dict[str, float]]:
    """The metrics of a run folder, an epoch each."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_until(process: subprocess.Popen, word: str) -> list[str]:
    """Lines that the process printed up to the first with this word."""
    lines: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if word in line:
            return lines
    assert process.stderr is not None
    raise AssertionError(f"ended without {word!r}: {''.join(lines)}{process.stderr.read()}")


class MemoryLog:
    """An event log in memory."""

    def __init__(self) -> None:
        self.events = []

    def append(self, event) -> None:
        self.events.append((event, len(self.events)))

    def read(self):
        return iter(self.events)


class MlflowServer:
    """A real server on a port of its own, on SQLite in `folder`."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri, self.process = folder, f"http://127.0.0.1:{self.port}", None

    def start(self):
        copy_empty_store(self.folder / "mlflow.db")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # half the time to start
            )
        wait_for(self.healthy, "the MLflow server answers")

    def healthy(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=PATIENCE) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # the server and its workers, all its own
            self.process.wait()
            self.process = None

"""MLflow shows what the event log holds, each thing once, whatever happened on the way. Real stores, real servers."""

import itertools
import logging
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from harness import MlflowServer
from prepared import copy_empty_store
from proxy import Proxy
from requests.utils import should_bypass_proxies
from waiting import PATIENCE, wait_for

from sweep.core.errors import TrackingUnavailable
from sweep.core.mlflow_uri import resolve_uri
from sweep.storage.event_log import Event, EventKind, EventLog
from sweep.tracking.background_writer import BackgroundWriter
from sweep.tracking.mlflow_client import connect
from sweep.tracking.projector import MlflowSync, Progress
from sweep.tracking.run_updates import flatten, trial_name

CONFIG = {
    "optim": {"lr": 0.001, "betas": [0.9, 0.999]},
    "loss": {"name": "star", "star_weight": 1.0},
    "data": {"root": None},
}


class Sweep:
    """An event log as a driver would write it, and a look at what MLflow made of it."""

    def __init__(self, folder: Path, uri: str, name: str = "demo", experiment: str = "faces") -> None:
        self.folder, self.uri, self.name, self.experiment = folder, uri, name, experiment
        self.log = EventLog(folder / "events.jsonl")
        self.state = folder / "mlflow.json"
        self.clock = 1_700_000_000.0

    def projector(self) -> MlflowSync:
        return MlflowSync(self.log.path, self.uri, self.experiment, self.state, self.folder / "mlartifacts")

    def add(self, kind, trial=None, **data):
        self.clock += 1.25
        self.log.append(Event(kind, trial, data, self.clock))

    def start(self, **tags):
        self.add(
            EventKind.SWEEP_STARTED,
            name=self.name,
            tags={"git.commit": "abc", **tags},
            config={"trials": 3, "a": {"b": 1}},
        )

    def trial(self, number, **more):
        params = {"loss.star_weight": 1.2 + number, "optim.lr": 0.001}
        self.add(EventKind.TRIAL_STARTED, number, params=params, config=CONFIG, **more)

    def report(self, trial, *steps, nme=0.1):
        for step in steps:
            values = {"train/loss": 1.0 / step, "val/nme": nme / step, "best_nme": nme / step, "lr": 0.001}
            self.add(EventKind.REPORT, trial, step=step, metrics=values)

    def end(self, trial, state="COMPLETE", reason=None, best_nme=0.05, **more):
        self.add(EventKind.TRIAL_ENDED, trial, state=state, reason=reason, best_nme=best_nme, **more)

    def finish(self, state="FINISHED", best_trial=None, artifacts=(), **more):
        artifacts = [str(path) for path in artifacts]
        self.add(
            EventKind.SWEEP_ENDED,
            state=state,
            summary="# best\n0.05",
            best_trial=best_trial,
            artifacts=artifacts,
            **more,
        )

    def client(self):
        return connect(self.uri)

    def runs(self):
        """Active runs by trial number, the parent under None; fails when one is there twice."""
        client = self.client()
        experiment = client.get_experiment_by_name(self.experiment)
        found = client.search_runs([experiment.experiment_id], "tags.`starsweep.sweep` = '" + self.name + "'")
        keys = [int(run.data.tags["starsweep.trial"]) if "starsweep.trial" in run.data.tags else None for run in found]
        assert len(set(keys)) == len(keys), f"runs are there twice: {Counter(keys)}"
        return dict(zip(keys, found, strict=True))

    def history(self, trial, key="val/nme"):
        """(step, value) as stored, in order of steps; a doubled metric shows up doubled."""
        points = self.client().get_metric_history(self.runs()[trial].info.run_id, key)
        return sorted((point.step, point.value) for point in points)

    def artifacts(self, trial, folder=None):
        return {file.path for file in self.client().list_artifacts(self.runs()[trial].info.run_id, folder)}


@pytest.fixture
def sweep(tmp_path):
    folder = tmp_path / "my sweep"
    folder.mkdir()
    copy_empty_store(tmp_path / "mlflow.db")
    return Sweep(folder, f"sqlite:///{tmp_path / 'mlflow.db'}")


def small_sweep(sweep):
    sweep.start()
    sweep.trial(0)
    sweep.report(0, 1, 2, 3)
    sweep.end(0)
    sweep.trial(1)
    sweep.report(1, 1)


# What a run looks like


def test_a_sweep_becomes_a_parent_with_a_child_a_trial(sweep, tmp_path):
    picture, checkpoint = tmp_path / "ced.png", tmp_path / "best.pt"
    picture.write_bytes(b"png")
    checkpoint.write_bytes(b"weights")
    sweep.start(seed="0")
    for number, state in enumerate(["COMPLETE", "PRUNED", "DIVERGED", "FAILED"]):
        sweep.trial(number)
        sweep.report(number, 1, 2)
        sweep.end(number, state, reason="lost a node" if state == "FAILED" else None, artifacts=[str(picture)])
    sweep.finish(best_trial=0, artifacts=[picture], trial_artifacts={"0": [str(checkpoint)]})
    assert sweep.projector().catch_up() == 1 + 4 * 4 + 1

    runs = sweep.runs()
    parent = runs.pop(None)
    assert (parent.info.run_name, parent.info.status) == ("demo", "FINISHED")
    expected = {"git.commit": "abc", "seed": "0", "mlflow.note.content": "# best\n0.05", "best.optim.lr": "0.001"}
    assert expected.items() <= parent.data.tags.items()
    assert parent.data.metrics == {"best_nme": 0.05}
    assert sweep.artifacts(None) == {"sweep.yaml", "ced.png"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    states = {number: (run.data.tags["starsweep.state"], run.info.status) for number, run in runs.items()}
    assert states == {
        0: ("COMPLETE", "FINISHED"),
        1: ("PRUNED", "FINISHED"),
        2: ("DIVERGED", "FAILED"),
        3: ("FAILED", "FAILED"),
    }
    assert runs[3].data.tags["starsweep.reason"] == "lost a node"
    first = runs[0]
    assert first.info.run_name == "0 star_weight=1.2 lr=0.001"
    assert first.info.end_time - first.info.start_time == 3 * 1250
    assert first.data.params["loss.star_weight"] == "1.2"
    assert first.data.params["optim.betas"] == "[0.9, 0.999]"
    assert first.data.params["data.root"] == "None"
    assert sweep.history(0) == [(1, 0.1), (2, 0.05)]
    assert sweep.artifacts(0) == {"config.yaml", "ced.png", "checkpoint"}
    assert sweep.artifacts(0, "checkpoint") == {"checkpoint/best.pt"}
    config = Path(sweep.client().download_artifacts(first.info.run_id, "config.yaml", str(tmp_path)))
    assert yaml.safe_load(config.read_text()) == CONFIG
    assert (sweep.folder / "mlartifacts").is_dir()


def test_names_and_flat_params():
    assert (
        trial_name(7, {"loss.star_weight": 1.2345, "model.depth": 18, "a.b": "x"}) == "7 star_weight=1.23 depth=18 b=x"
    )
    assert trial_name(7, {}) == "7"
    assert flatten({"a": {"b": {"c": 1}}, "d": {}, "e": "", "f": True}) == {
        "a.b.c": "1",
        "d": "{}",
        "e": "",
        "f": "True",
    }


def test_120_params_and_3000_reports_fit(sweep):
    sweep.start()
    config = {"section": {f"field{i}": i for i in range(120)}}
    sweep.add(EventKind.TRIAL_STARTED, 0, params={"section.field3": 3}, config=config)
    sweep.report(0, *range(1, 3001))
    sweep.projector().catch_up()
    assert len(sweep.runs()[0].data.params) == 120
    assert [step for step, _ in sweep.history(0)] == list(range(1, 3001))


def test_what_is_not_finite_is_stored_once(sweep):
    sweep.start()
    sweep.trial(0)
    for step, value in enumerate([math.nan, math.inf, -math.inf, 0.1], start=1):
        sweep.add(EventKind.REPORT, 0, step=step, metrics={"val/nme": value})
    for _ in range(2):
        sweep.projector().catch_up()
        sweep.state.unlink()
    history = sweep.history(0)
    assert [step for step, _ in history] == [1, 2, 3, 4]
    assert math.isnan(history[0][1])
    assert history[1][1] > 1e308
    assert history[2][1] < -1e308


def test_missing_files_are_skipped_with_a_warning(sweep, caplog):
    small_sweep(sweep)
    sweep.end(1, artifacts=["/nowhere/ced.png"])
    projector = sweep.projector()
    projector.catch_up()
    assert projector.finished
    assert "/nowhere/ced.png" in caplog.text
    assert sweep.artifacts(1) == {"config.yaml"}


# Sending again, going on, starting over


def test_a_new_process_sends_only_what_is_new(sweep):
    small_sweep(sweep)
    assert sweep.projector().catch_up() == 8
    sweep.report(1, 2)
    projector = sweep.projector()
    assert projector.lag == 1
    assert projector.catch_up() == 1
    assert (projector.lag, projector.finished, projector.catch_up()) == (0, True, 0)
    saved = Progress.load(sweep.state)
    runs = sweep.runs()
    assert saved.trials == {"0": runs[0].info.run_id, "1": runs[1].info.run_id}
    assert (saved.parent, saved.experiment_id) == (runs[None].info.run_id, runs[None].info.experiment_id)
    assert saved.offset == sweep.log.path.stat().st_size


@pytest.mark.parametrize("content", [None, "{", "[]", '{"offset": 5}'])
def test_a_lost_cache_doubles_nothing(sweep, content):
    small_sweep(sweep)
    sweep.projector().catch_up()
    before = {key: run.info.run_id for key, run in sweep.runs().items()}
    sweep.state.unlink() if content is None else sweep.state.write_text(content)
    sweep.report(1, 2)
    sweep.end(1)
    assert sweep.projector().catch_up() == 10
    assert {key: run.info.run_id for key, run in sweep.runs().items()} == before
    assert [step for step, _ in sweep.history(0)] == [1, 2, 3]
    assert [step for step, _ in sweep.history(1)] == [1, 2]


def test_a_trial_that_is_adopted_keeps_its_run(sweep):
    small_sweep(sweep)
    sweep.add(EventKind.TRIAL_INTERRUPTED, 1)
    sweep.finish("KILLED")
    sweep.projector().catch_up()
    runs = sweep.runs()
    run_id = runs[1].info.run_id
    assert (runs[1].info.status, runs[1].data.tags["starsweep.state"]) == ("KILLED", "INTERRUPTED")
    assert runs[None].info.status == "KILLED"

    sweep.start(resumed="yes")
    sweep.add(
        EventKind.TRIAL_STARTED,
        1,
        params={"optim.lr": 0.001},
        config={"optim": {"lr": 0.5}, "run": {"x": 1}},
        attempt=2,
    )
    projector = sweep.projector()
    projector.catch_up()
    runs = sweep.runs()
    assert (runs[1].info.status, runs[None].info.status) == ("RUNNING", "RUNNING")
    assert runs[None].data.tags["resumed"] == "yes"
    assert runs[1].data.params["run.x"] == "1"  # a param that is new is added, one that is there stays

    sweep.report(1, 2)
    sweep.end(1)
    sweep.finish(best_trial=1)
    projector.catch_up()
    runs = sweep.runs()
    assert (runs[1].info.run_id, runs[1].info.status) == (run_id, "FINISHED")
    assert runs[1].data.tags["starsweep.attempt"] == "2"
    assert [step for step, _ in sweep.history(1)] == [1, 2]
    assert runs[None].info.status == "FINISHED"


@pytest.mark.parametrize("victim", [0, 1, None])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_deleted_by_hand_is_made_anew(sweep, victim, fresh):
    small_sweep(sweep)
    projector = sweep.projector()
    projector.catch_up()
    old = sweep.runs()
    sweep.client().delete_run(old[victim].info.run_id)
    sweep.start()
    sweep.trial(0)
    sweep.report(1, 2)
    (sweep.projector() if fresh else projector).catch_up()
    runs = sweep.runs()
    assert runs.keys() == {None, 0, 1}
    assert {key for key in runs if runs[key].info.run_id != old[key].info.run_id} == {victim}
    assert [step for step, _ in sweep.history(0)] == [1, 2, 3]
    assert [step for step, _ in sweep.history(1)] == [1, 2]
    assert {runs[key].data.tags["mlflow.parentRunId"] for key in (0, 1)} == {runs[None].info.run_id}
    assert "config.yaml" in sweep.artifacts(0)


def test_a_deleted_experiment_is_restored(sweep):
    small_sweep(sweep)
    projector = sweep.projector()
    projector.catch_up()
    before = {key: run.info.run_id for key, run in sweep.runs().items()}
    experiment = sweep.client().get_experiment_by_name("faces").experiment_id
    for new_process in (False, True):
        sweep.client().delete_experiment(experiment)
        sweep.report(1, 3 if new_process else 2)
        (sweep.projector() if new_process else projector).catch_up()
        assert {key: run.info.run_id for key, run in sweep.runs().items()} == before
    assert [step for step, _ in sweep.history(1)] == [1, 2, 3]


def test_another_server_gets_everything(sweep, tmp_path):
    small_sweep(sweep)
    sweep.projector().catch_up()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "other.db")
    other = Sweep(sweep.folder, f"sqlite:///{tmp_path / 'other.db'}", experiment="elsewhere")
    assert other.projector().catch_up() == 8
    assert other.runs().keys() == {None, 0, 1}


def test_a_sweep_begun_again_under_its_old_name_gets_its_own_runs(sweep):
    small_sweep(sweep)
    sweep.projector().catch_up()
    old = {run.info.run_id for run in sweep.runs().values()}
    sweep.log.path.unlink()
    sweep.log = EventLog(sweep.log.path)
    small_sweep(sweep)
    sweep.projector().catch_up()
    everything = sweep.client().search_runs([sweep.client().get_experiment_by_name("faces").experiment_id])
    assert len(everything) == 6
    assert Progress.load(sweep.state).parent not in old


def test_a_torn_tail_and_an_empty_log_are_no_events(sweep):
    projector = sweep.projector()
    assert (projector.catch_up(), projector.lag, projector.finished) == (0, 0, True)
    small_sweep(sweep)
    with sweep.log.path.open("ab") as file:
        file.write(b'{"event":"report","time":')
    assert (projector.lag, projector.catch_up(), projector.finished) == (8, 8, True)
    sweep.log = EventLog(sweep.log.path)
    sweep.report(1, 2)
    assert projector.catch_up() == 1


def test_mlflow_is_quiet_and_leaves_nothing_in_the_working_folder(tmp_path):
    script = (
        "import sys, logging; from pathlib import Path; logging.basicConfig(level=logging.WARNING)\n"
        "from sweep.storage.event_log import *; from sweep.core.mlflow_uri import *\n"
        "from sweep.tracking.projector import *\n"
        "assert 'mlflow' not in sys.modules\n"
        "out = Path(sys.argv[1]); log = EventLog(out / 'demo/events.jsonl')\n"
        "log.append(Event(EventKind.SWEEP_STARTED, None, {'name': 'demo', 'tags': {}, 'config': {}}))\n"
        "log.append(Event(EventKind.TRIAL_STARTED, 0, {'params': {}, 'config': {}}))\n"
        "log.append(Event(EventKind.TRIAL_ENDED, 0, {'state': 'FAILED', 'reason': 'x' * 9000, 'best_nme': None}))\n"
        "p = MlflowSync(log.path, resolve_uri(None, out), 'faces', out / 'demo/mlflow.json', out / 'mlartifacts')\n"
        "assert p.catch_up() == 3 and p.finished\n"
    )
    (tmp_path / "cwd").mkdir()
    root = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "outputs")],
        cwd=tmp_path / "cwd",
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list((tmp_path / "cwd").iterdir()) == []
    assert (tmp_path / "outputs" / "mlflow.db").exists()


# URIs


def test_uris_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path.resolve()
    assert resolve_uri(None, Path("outputs")) == f"sqlite:///{here}/outputs/mlflow.db"
    assert resolve_uri("sqlite:///a.db", Path()) == resolve_uri("a.db", Path()) == f"sqlite:///{here}/a.db"
    assert resolve_uri("sqlite:////data/a.db", Path()) == "sqlite:////data/a.db"
    for uri in ("http://host:5000", "https://u:p@host/x", "postgresql+psycopg2://u:p@host/db", "databricks"):
        assert resolve_uri(uri, Path()) == uri


@pytest.mark.parametrize(
    "uri", ["file:///tmp/mlruns", "./mlruns", "host:5000", "sqlite://", "sqlite:///:memory:", "ftp://x"]
)
def test_uris_that_cannot_work_are_refused(uri):
    with pytest.raises(ValueError, match="MLflow"):
        resolve_uri(uri, Path())


def test_a_proxy_is_not_asked_for_what_is_on_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    for spared in ("", "intern.example,localhost"):
        monkeypatch.setenv("no_proxy", spared)
        connect(f"sqlite:///{tmp_path / 'a.db'}")
        for host in ("127.0.0.1", "localhost"):
            assert should_bypass_proxies(f"http://{host}:5000/api", None)
        assert not should_bypass_proxies("http://elsewhere.example:5000/api", None)
        assert should_bypass_proxies("http://intern.example/api", None) == bool(spared)
    monkeypatch.setenv("no_proxy", "*")
    connect(f"sqlite:///{tmp_path / 'a.db'}")
    assert os.environ["no_proxy"] == "*"


# The background writer


class Flaky:
    """A source that fails as told and notes when it was asked."""

    def __init__(self, *failures):
        self.failures, self.times, self.lag = list(failures), [], 1

    def catch_up(self):
        self.times.append(time.monotonic())
        if self.failures:
            raise self.failures.pop(0)
        self.lag = 0
        return 1

    @property
    def finished(self):
        return self.lag == 0


def test_the_writer_backs_off_and_warns_once_an_outage(caplog):
    caplog.set_level(logging.INFO)
    source = Flaky(*[TrackingUnavailable("away") for _ in range(30)])  # if pauses grew on, for a year
    writer = BackgroundWriter(source, interval=0.02, longest_pause=0.1)
    writer.start()
    wait_for(lambda: writer.last_error is not None)
    wait_for(lambda: writer.lag == 0)
    gaps = [b - a for a, b in itertools.pairwise(source.times)]
    for gap, expected in zip(gaps, [0.02, 0.04, 0.08, *27 * [0.1]], strict=True):
        assert gap > 0.9 * expected
    assert writer.close(PATIENCE)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_bug_is_logged_once_with_its_traceback_and_without_its_secret(caplog):
    source = Flaky(*[KeyError("http://me:secret@host") for _ in range(3)])
    writer = BackgroundWriter(source, interval=0.02)
    writer.start()
    wait_for(lambda: isinstance(writer.last_error, KeyError))
    wait_for(lambda: writer.lag == 0)
    assert writer.close(PATIENCE)
    assert writer.last_error is None
    assert caplog.text.count("Traceback") == 1
    assert "secret" not in caplog.text


def test_closing_tries_until_the_time_is_up():
    hopeless = Flaky(*[TrackingUnavailable("away") for _ in range(100_000)])
    writer = BackgroundWriter(hopeless, interval=0.05)
    writer.start()
    wait_for(lambda: len(hopeless.times) > 2)
    began = time.monotonic()
    assert not writer.close(0.5)
    assert time.monotonic() - began > 0.4
    assert not writer.close(0.1)
    assert not BackgroundWriter(hopeless).close(0.1)  # never started


def test_waking_it_waits_for_nothing():
    asked, answered = threading.Event(), threading.Event()

    class Slow(Flaky):
        def catch_up(self):
            asked.set()
            answered.wait()
            return super().catch_up()

    writer = BackgroundWriter(Slow())
    writer.start()
    asked.wait()
    writer.wake()
    assert writer.lag == 1
    answered.set()
    assert writer.close(PATIENCE)


# A real server that comes and goes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that is not there yet, or still there from another test; killed at the end."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


def test_a_server_that_is_away_is_reported_without_the_password(tmp_path):
    sweep = Sweep(tmp_path, "http://me:secret@127.0.0.1:9")
    small_sweep(sweep)
    projector = sweep.projector()
    for attempt in (projector.catch_up, projector.check):
        with pytest.raises(TrackingUnavailable, match=r"http://\*\*\*@127\.0\.0\.1:9") as caught:
            attempt()
        assert "secret" not in str(caught.value)
        assert str(caught.value).endswith("refused")
    assert projector.lag == 8


@pytest.mark.slow
def test_a_server_that_comes_goes_and_comes_back_has_everything_once(tmp_path, server, caplog):
    server.kill()
    sweep = Sweep(tmp_path / "demo", server.uri)
    small_sweep(sweep)
    writer = BackgroundWriter(sweep.projector(), interval=0.2, longest_pause=0.5)
    writer.start()
    wait_for(lambda: isinstance(writer.last_error, TrackingUnavailable))
    writer.wake()
    assert writer.lag == 8

    server.start()
    wait_for(lambda: writer.lag == 0)
    killed = threading.Timer(0.5, server.kill)
    killed.start()
    for step in range(2, 60):  # the server dies in the middle of these
        sweep.report(1, step)
        writer.wake()
        time.sleep(0.02)
    killed.join()
    sweep.report(1, 60)
    sweep.end(1)
    writer.wake()
    wait_for(lambda: isinstance(writer.last_error, TrackingUnavailable))
    assert writer.lag > 0
    assert not writer.close(0.2)

    sweep.state.unlink()
    sweep.finish(best_trial=0)
    server.start()
    rest = BackgroundWriter(sweep.projector(), interval=0.2)
    rest.start()
    assert rest.close(PATIENCE)
    assert [step for step, _ in sweep.history(0)] == [1, 2, 3]
    assert [step for step, _ in sweep.history(1)] == list(range(1, 61))
    runs = sweep.runs()
    assert runs.keys() == {None, 0, 1}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert sweep.artifacts(0) == {"config.yaml"}
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_over_http(tmp_path, server):
    if not server.healthy():
        server.start()
    sweeps = [Sweep(tmp_path / name, server.uri, name, "race") for name in ("one", "two", "three")]
    for sweep in sweeps:
        small_sweep(sweep)
        for step, value in enumerate([math.nan, math.inf], start=10):
            sweep.add(EventKind.REPORT, 1, step=step, metrics={"val/nme": value})
    writers = [BackgroundWriter(sweep.projector()) for sweep in sweeps]
    for writer in writers:
        writer.start()  # all make the one experiment at the same time
    for writer in writers:
        assert writer.close(PATIENCE)
    assert [writer.last_error for writer in writers] == [None, None, None]

    sweep = sweeps[0]
    sweep.state.unlink()
    sweep.projector().catch_up()  # all of it once more
    assert [step for step, _ in sweep.history(1)] == [1, 10, 11]
    assert sum(math.isnan(value) for _, value in sweep.history(1)) == 1

    sweep.client().delete_run(sweep.runs()[0].info.run_id)
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"0" * 1_000_000)
    sweep.finish(best_trial=0, trial_artifacts={"0": [str(checkpoint)]})
    projector = sweep.projector()
    projector.check()
    projector.catch_up()
    assert projector.finished
    assert [step for step, _ in sweep.history(0)] == [1, 2, 3]
    assert sweep.artifacts(0, "checkpoint") == {"checkpoint/best.pt"}
    assert sweep.runs()[None].info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_that_the_server_makes_late_is_not_there_twice(tmp_path, server, monkeypatch):
    """The server hears of a run only when the client has given up, asked again, and given up again."""
    if not server.healthy():
        server.start()
    proxy = Proxy(server.port)
    sweep = Sweep(tmp_path / "late", proxy.uri, "late", "late")
    sweep.start()
    projector = sweep.projector()
    projector.catch_up()
    sweep.trial(0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.turn("hold", "runs/create")
    while proxy.hit < 2:
        with pytest.raises(TrackingUnavailable):
            projector.catch_up()
    proxy.turn("pass")
    proxy.release.set()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(round(PATIENCE)))

    def made() -> int:
        client = sweep.client()
        return len(client.search_runs([client.get_experiment_by_name("late").experiment_id]))

    wait_for(lambda: made() == 3)  # the parent, and two runs for one trial
    projector.catch_up()
    sweep.report(0, 1, 2)
    sweep.end(0)
    sweep.finish()
    projector.catch_up()
    assert {key: run.info.status for key, run in sweep.runs().items()} == {None: "FINISHED", 0: "FINISHED"}
    assert sweep.history(0) == [(1, 0.1), (2, 0.05)]
    proxy.shutdown()
    proxy.server_close()

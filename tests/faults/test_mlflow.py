"""Whole sweeps while their MLflow server is away, dead, paused, slow, broken, or refuses them. Nothing is imitated."""

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from harness import CALM, MlflowServer, Sweep
from prepared import copy_empty_store
from proxy import Proxy
from waiting import PATIENCE, wait_for

from sweep.core.trial import State
from sweep.storage.event_log import EventKind
from sweep.tracking.projector import Progress

pytestmark = [pytest.mark.slow, pytest.mark.long]

USER, SECRET = "sweeper", "s3cretMARKofThisTest"
RIGHT, WRONG = f"{USER}:{SECRET}@", f"{USER}:not{SECRET}@"
KNOWN = [{"optim.lr": rate, "loss.star_weight": 1.0} for rate in (1e30, 1e-3, 1e-6)]  # the first diverges
SHORT = CALM | {"known": KNOWN, "trials": 3}
LONG = SHORT | {"pruner": {"name": "none"}, "trials": 6}


class Watched(Sweep):
    """A sweep that shares its MLflow server with others."""

    def runs(self):
        client = self.client()
        experiment = client.get_experiment_by_name("starsweep")
        found = client.search_runs([experiment.experiment_id], f"tags.`starsweep.sweep` = '{self.name}'")
        keys = [int(r.data.tags["starsweep.trial"]) if "starsweep.trial" in r.data.tags else None for r in found]
        assert len(set(keys)) == len(keys), f"runs are there twice: {Counter(keys)}"
        return dict(zip(keys, found, strict=True))

    def sync(self, *more: str, **env: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "sweep.sync", str(self.folder), *more]
        options = {"cwd": self.home, "env": os.environ | env, "capture_output": True, "text": True, "timeout": 100}
        return subprocess.run(command, check=False, **options)

    def hold(self) -> None:
        """Has every trial but the first wait until it is let go: its worker finds its folder locked."""
        trials = range(1, self.settings["trials"])
        self.gates = {n: FileLock(self.folder / f"trials/{n:04d}/worker.lock") for n in trials}
        for lock in self.gates.values():
            Path(lock.lock_file).parent.mkdir(parents=True)
            lock.acquire()

    def let_go(self, trial: int, epochs: int | None = None) -> None:
        """Has the trial run, up to an epoch or to its end."""
        kind = '"event":"trial_ended"' if epochs is None else '"event":"report"'
        self.gates[trial].release()
        self.wait_for_line(lambda line: kind in line and f'"trial":{trial},' in line, epochs or 1)

    def wait_for_line(self, fits: Callable[[str], bool], count: int = 1) -> None:
        """Until so many lines of the event log fit."""
        path = self.folder / "events.jsonl"
        wait_for(lambda: path.exists() and sum(map(fits, path.read_text().splitlines())) >= count, self.name)

    @property
    def log(self) -> str:
        path = self.folder / "sweep.log"
        return path.read_text() if path.exists() else ""

    def wait_until_logged(self, words: str, times: int = 1) -> None:
        """Until sweep.log tells of it so many times."""
        wait_for(lambda: self.log.count(words) >= times, f"{self.name}: {words} x {times}")

    @property
    def sent(self) -> int:
        return Progress.load(self.folder / "mlflow.json").offset

    def wait_until_sent(self) -> None:
        """Until MLflow has all that is in the log by now."""
        size = (self.folder / "events.jsonl").stat().st_size
        wait_for(lambda: self.sent >= size, f"{self.name}: MLflow has the first {size} bytes of the log")

    def run_ids(self) -> dict[int | None, str]:
        return {key: run.info.run_id for key, run in self.runs().items()}

    def check_all(self) -> None:
        """Every value of the log is in MLflow, once, in one run a trial, with the right end and its files."""
        trials = self.settings["trials"]
        self.check(trials)
        runs, states = self.runs(), self.states()
        logged: dict[int, list] = {number: [] for number in range(trials)}
        for event in self.events():
            if event.kind is EventKind.REPORT:
                values = event.data["metrics"].items()
                logged[event.trial] += [(k, event.data["step"], v) for k, v in values if v is not None]
        for number, state in states.items():
            run = runs[number]
            points = [p for k in run.data.metrics for p in self.client().get_metric_history(run.info.run_id, k)]
            if logged[number]:
                assert sorted((p.key, p.step, p.value) for p in points) == sorted(logged[number])
            else:  # no report: no number, but there for MLflow's Compare
                assert [(p.key, p.step, math.isnan(p.value)) for p in points] == [("best_nme", 0, True)]
            assert (run.info.status, run.data.tags["starsweep.state"]) == (State(state).traits.run_status, state)
            files = {"config.yaml", "ced.png"} if logged[number] else {"config.yaml"}
            assert files <= self.artifacts(run.info.run_id), f"trial {number}"
        assert {"COMPLETE", "DIVERGED"} <= set(states.values())
        assert runs[None].info.status == "FINISHED"
        assert f"{trials} trials" in runs[None].data.tags["mlflow.note.content"]
        assert {"leaderboard.csv", "best.yaml", "sweep.yaml"} <= self.artifacts(runs[None].info.run_id)


class Auth(MlflowServer):
    """A server that asks for a password."""

    def start(self):
        (self.folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self.folder / 'users.db'}\n"
            f"admin_username = {USER}\nadmin_password = {SECRET}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            "auth_cache_ttl_seconds = 60\n"  # else each of many requests takes a fifth of a second
        )
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        more = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_FLASK_SERVER_SECRET_KEY": "of this test"}
        environment = os.environ | more | {"MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini")}
        with (self.folder / "server.log").open("ab") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=self.folder, start_new_session=True, env=environment
            )
        wait_for(self.healthy, "the MLflow server with passwords answers")

    def uri_of(self, login: str) -> str:
        return self.uri.replace("://", f"://{login}")


@dataclass
class Ended:
    """A sweep that is over, before anything was sent later."""

    sweep: Watched
    process: subprocess.Popen
    out: str
    err: str
    closing: float  # seconds from the end of the last trial to the end of the process

    def check_well(self, sent: bool) -> None:
        """Ended well, with all trials, and told how to send the rest exactly when there is one."""
        assert self.process.returncode == 0, self.out + self.err
        assert self.err == ""
        assert "Traceback" not in self.out + self.sweep.log
        assert len(self.sweep.states()) == self.sweep.settings["trials"]
        assert all(trial.state.is_finished() for trial in self.sweep.study().trials)
        assert ("sweep.sync" in self.out) is not sent

    @property
    def said(self) -> str:
        return " ".join(self.out.split())  # as the console may have broken the lines


def run(sweep: Watched, meanwhile: Callable[[], None] = lambda: None, **env: str) -> Ended:
    """The sweep from start to end, with something that happens to it meanwhile."""
    with sweep.start(**env) as process:
        try:
            meanwhile()
            assert process.poll() is None, "the sweep was over too soon for this test"
        except BaseException:
            process.kill()
            raise
        out, err = process.communicate(timeout=PATIENCE)
    return Ended(sweep, process, out, err, time.time() - sweep.events()[-1].time)


def signal_to(server: MlflowServer, number: signal.Signals) -> None:
    os.killpg(server.process.pid, number)


# The sweeps, four at a time: most of their time is waiting


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """One that stays, one with passwords, one to be killed, one that is not there."""
    home, found = tmp_path_factory.mktemp("servers"), {}
    for name in ("steady", "auth", "mortal", "absent"):
        (home / name).mkdir()
        copy_empty_store(home / name / "mlflow.db")  # once is enough, with passwords too
        found[name] = (Auth if name == "auth" else MlflowServer)(home / name)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: found[name].start(), ("steady", "auth", "mortal")))
    yield found
    for server in found.values():
        server.kill()


@pytest.fixture(scope="module")
def stories(servers, tmp_path_factory):
    """The sweeps by name, each a future."""
    home = tmp_path_factory.mktemp("sweeps")
    auth, proxy = servers["auth"], Proxy(servers["steady"].port)

    def sweep(name: str, uri: str, settings: dict = SHORT) -> Watched:
        (home / name).mkdir()
        return Watched(home / name / "home", name, settings, uri)

    login = {"MLFLOW_TRACKING_USERNAME": USER, "MLFLOW_TRACKING_PASSWORD": SECRET}
    with ThreadPoolExecutor(4) as pool:
        yield {
            "troubled": pool.submit(_troubled, sweep("troubled", servers["mortal"].uri, LONG), servers["mortal"]),
            "proxied": pool.submit(_proxied, sweep("proxied", proxy.uri, LONG), proxy),
            "refused": pool.submit(run, sweep("refused", auth.uri_of(WRONG))),
            "alone": pool.submit(run, sweep("alone", servers["absent"].uri)),
            "by_uri": pool.submit(run, sweep("by_uri", auth.uri_of(RIGHT))),
            "by_environment": pool.submit(run, sweep("by_environment", auth.uri), **login),
        }
    proxy.shutdown()
    proxy.server_close()


def _troubled(sweep: Watched, server: MlflowServer) -> Ended:
    """The server is killed, comes back, is paused, goes on, loses runs, and is paused again until after the end."""

    def meanwhile() -> None:
        sweep.let_go(1, epochs=1)
        sweep.wait_until_sent()
        server.kill()
        sweep.wait_until_logged("cannot be reached")
        sweep.let_go(2)
        server.start()
        sweep.wait_until_logged("MLflow is back")
        sweep.wait_until_sent()
        signal_to(server, signal.SIGSTOP)
        sweep.let_go(3, epochs=2)
        signal_to(server, signal.SIGCONT)
        sweep.wait_for_line(lambda line: '"event":"trial_started"' in line, 5)
        sweep.wait_until_sent()
        old = sweep.run_ids()
        for victim in (None, 4):
            sweep.client().delete_run(old[victim])
        sweep.let_go(4, epochs=1)
        wait_for(lambda: 4 in sweep.run_ids(), "a run that was deleted is there again")
        assert {key for key, run_id in sweep.run_ids().items() if run_id != old[key]} == {None, 4}
        sweep.let_go(5, epochs=1)
        signal_to(server, signal.SIGSTOP)

    sweep.hold()
    return run(sweep, meanwhile)


def _proxied(sweep: Watched, proxy: Proxy) -> Ended:
    """Answers are lost, errors, or late; then the run of an ended trial is deleted."""

    def meanwhile() -> None:
        faults = [("hang", "runs/create"), ("hang", "log-batch"), ("hang", ""), ("500", ""), ("slow", "")]
        for trial, (mode, only) in enumerate(faults):
            if trial:
                proxy.turn(mode, only)
                sweep.let_go(trial)
            if mode == "slow":
                wait_for(lambda: proxy.hit >= 5, "five late answers")
            else:
                sweep.wait_until_logged("cannot be reached", trial + 1)
                assert proxy.hit
            proxy.turn("pass")
            sweep.wait_until_logged("MLflow is back", min(trial + 1, 4))
            sweep.wait_until_sent()
        sweep.client().delete_run(sweep.run_ids()[1])
        sweep.let_go(5, epochs=1)

    sweep.hold()
    proxy.turn("hang", "runs/create")
    return run(sweep, meanwhile, MLFLOW_HTTP_REQUEST_TIMEOUT="4")


# A server that comes and goes


def test_answers_that_are_lost_late_or_errors_leave_mlflow_complete_at_the_end(stories):
    ended = stories["proxied"].result()
    ended.check_well(sent=True)
    assert ended.sweep.log.count("cannot be reached") == 4  # once each; what is only slow is no outage
    ended.sweep.check_all()


def test_a_server_that_is_paused_at_the_end_is_waited_for_half_a_minute(stories):
    ended = stories["troubled"].result()
    ended.check_well(sent=False)
    assert ended.closing > 29
    ended.sweep.wait_until_gone()


def test_after_kill_pause_and_deleted_runs_a_sync_makes_mlflow_complete(stories, servers):
    sweep, server = stories["troubled"].result().sweep, servers["mortal"]
    paused = sweep.sync(MLFLOW_HTTP_REQUEST_TIMEOUT="2")
    check_refused(paused, f"MLflow at {server.uri} cannot be reached: ")
    signal_to(server, signal.SIGCONT)
    check_synced(sweep.sync(), sweep)
    sweep.check_all()


def test_a_sweep_whose_server_is_never_there_ends_well_and_is_sent_later(stories, servers):
    ended, server = stories["alone"].result(), servers["absent"]
    ended.check_well(sent=False)
    assert ended.said.count(f"MLflow at {server.uri} cannot be reached: ") == 1
    check_refused(ended.sweep.sync(), f"MLflow at {server.uri} cannot be reached: ")
    server.start()
    check_synced(ended.sweep.sync(), ended.sweep)
    ended.sweep.check_all()


def check_refused(synced: subprocess.CompletedProcess, message: str) -> None:
    """Nothing could be sent, which is told in one line."""
    assert (synced.returncode, synced.stdout) == (1, ""), synced.stderr
    assert synced.stderr.startswith(message)
    assert synced.stderr.count("\n") == 1


def check_synced(synced: subprocess.CompletedProcess, sweep: Watched) -> None:
    assert (synced.returncode, synced.stderr) == (0, "")
    assert synced.stdout.endswith(f"MLflow has all of sweep {sweep.name}\n")


# A server with passwords


@pytest.mark.parametrize("way", ["by_uri", "by_environment"])
def test_with_the_right_password_everything_is_sent_and_the_password_is_nowhere(stories, servers, way):
    ended = stories[way].result()
    ended.check_well(sent=True)
    ended.sweep.mlflow = servers["auth"].uri_of(RIGHT)
    ended.sweep.check_all()
    check_secret(ended, servers["auth"])


def test_with_a_wrong_password_the_sweep_ends_well_and_is_sent_with_the_right_one(stories, servers):
    ended, server = stories["refused"].result(), servers["auth"]
    sweep = ended.sweep
    ended.check_well(sent=False)
    assert ended.said.count(f"MLflow at {server.uri_of('***@')} ") == 1
    assert "not authenticated" in ended.said
    for uri, login in [(server.uri_of(WRONG), {}), (server.uri, {"MLFLOW_TRACKING_PASSWORD": "not" + SECRET})]:
        synced = sweep.sync("--mlflow_uri", uri, MLFLOW_TRACKING_USERNAME=USER, **login)
        check_refused(synced, "MLflow at ")
        assert SECRET not in synced.stderr
    check_synced(sweep.sync("--mlflow_uri", server.uri_of(RIGHT)), sweep)
    sweep.mlflow = server.uri_of(RIGHT)
    sweep.check_all()
    check_secret(ended, server)


def check_secret(ended: Ended, server: Auth) -> None:
    """The password is not in what was shown, what the sweep wrote, or what MLflow was given."""
    assert SECRET not in ended.out + ended.err
    files = [
        *ended.sweep.output.rglob("*"),
        *server.folder.glob("mlflow.db*"),
        *(server.folder / "artifacts").rglob("*"),
    ]
    files = [path for path in files if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []

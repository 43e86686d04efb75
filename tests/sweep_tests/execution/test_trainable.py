"""One trial inside a worker: what it leaves behind in the process."""

from __future__ import annotations

import contextlib
import gc
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from waiting import wait_for

from sweep.core.trial import State
from sweep.execution import trial_worker, trial_workspace
from sweep.execution.trial_messages import TrialEnd, TrialTask, read_message
from sweep.storage import sweep_folder
from trainer import engine, run_state
from trainer.config import TrainConfig
from trainer.data.crop_cache import load_splits


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


def task_of(folder: Path, number: int, faces: dict[Any, str] | None = None) -> dict[str, Any]:
    changes = {
        "data.train_faces": 16,
        "data.val_faces": 4,
        "data.image_size": 32,
        "data.cache_dir": str(folder / "crops"),
        "model.backbone": "resnet18",
        "model.width": 8,
        "optim.batch_size": 8,
        "optim.epochs": 2,
        "run.threads": 1,
        "run.precision": "float32",
        "run.channels_last": True,
        "run.output": str(folder / str(number)),
    }
    config = TrainConfig().replace(changes).tree()
    return TrialTask(number, config, pauses=(), saved=False, faces=faces or {}, timeout=None).mapping()


def test_a_stopped_trial_is_out_of_memory_when_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray stops a trial by an exit inside of its report, and runs the next in another thread of the same process."""
    networks: list[weakref.ref[torch.nn.Module]] = []
    alive_at_start: list[int] = []
    reported: list[dict[str, Any]] = []
    build, train = run_state.build_model, engine.train

    def build_and_watch(config: TrainConfig) -> torch.nn.Module:
        model = build(config)
        model.loop = [model]  # so that only a collection frees it
        networks.append(weakref.ref(model))
        return model

    def train_and_look(*args: Any, **more: Any) -> engine.TrainResult:
        alive_at_start.append(sum(network() is not None for network in networks))
        return train(*args, **more)

    def report(result: dict[str, Any]) -> None:
        reported.append(result)
        if result["trial"] == 0:
            raise SystemExit(0)

    def work(number: int) -> None:
        with contextlib.suppress(SystemExit):
            trial_worker.run_trial(task_of(tmp_path, number))

    monkeypatch.setattr(run_state, "build_model", build_and_watch)
    monkeypatch.setattr(engine, "train", train_and_look)
    monkeypatch.setattr(trial_worker.tune, "report", report)
    gc.disable()  # chance shall not help
    try:
        for number in range(2):
            worker = threading.Thread(target=work, args=(number,))
            worker.start()
            worker.join()
    finally:
        gc.enable()
    # stopped at once; two epochs and the end
    assert [result["trial"] for result in reported] == [0, 1, 1, 1]
    assert len(networks) == 2
    assert alive_at_start == [0, 0]


def test_a_machine_with_other_faces_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that joins late, which nobody has asked before: the hash that it must find comes with the trial."""
    reported: list[dict[str, Any]] = []
    monkeypatch.setattr(trial_worker.tune, "report", reported.append)
    given = task_of(tmp_path, 0)
    crops = load_splits(TrainConfig.from_tree(given["config"]))
    hashes = {split: of.fingerprint() for split, of in crops.items()}
    trial_worker.run_trial(task_of(tmp_path, 0, hashes))
    *epochs, end = map(read_message, reported)
    assert [report.epoch for report in epochs] == [1, 2]
    assert end == TrialEnd(0, State.COMPLETE)
    reported.clear()
    trial_worker.run_trial(task_of(tmp_path, 1, {"val": "v2-0123456789abcdef"}))
    (end,) = map(read_message, reported)
    assert end.state is State.FAILED
    assert re.search(r"DataError: machine \S+: the val faces here are not those .*not v2-0123456789abcdef", end.reason)


def test_a_trial_that_is_silent_for_long_leaves_its_stacks_behind(tmp_path):
    path = tmp_path / sweep_folder.HUNG_FILE
    with trial_workspace._Watchdog(path, 0.5):
        wait_for(lambda: "test_a_trial_that_is_silent_for_long" in path.read_text())
    assert not path.exists()


def test_each_report_begins_the_wait_anew(tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(
        trial_workspace.faulthandler, "dump_traceback_later", lambda seconds, file: waits.append(seconds)
    )
    with trial_workspace._Watchdog(tmp_path / sweep_folder.HUNG_FILE, 100.0) as watchdog:
        watchdog.reset()
    assert waits == [90.0, 90.0]
    with trial_workspace._Watchdog(tmp_path / sweep_folder.HUNG_FILE, None) as watchdog:  # for ever
        watchdog.reset()
    assert waits == [90.0, 90.0]

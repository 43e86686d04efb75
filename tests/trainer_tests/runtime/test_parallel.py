"""Two processes train what one trains: real process groups (gloo), compared in float64, where rounding hides nothing.

Adam divides a gradient by its size, so that float32's rounding of tiny gradients becomes a step of another sign after
the first update. In float64 whole runs agree to 1e-7, which nothing but the same arithmetic does. The network is a few
convolutions under the real heads, so that all cases fit into one start of two processes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn

from trainer import checkpoint, cores, engine, run_folder, run_state, train
from trainer.config import TrainConfig
from trainer.data.batches import training_batches
from trainer.data.crop_cache import load_split
from trainer.errors import DataError, DiskFullError
from trainer.model import PyramidHead, RegressionHead
from trainer.run_folder import LAST
from trainer.runtime import batch_norm
from trainer.runtime import distributed as parallel
from trainer.runtime.device import to_device

PROJECT = Path(__file__).parents[3]
TOLERANCE = 1e-7  # relative, of losses, NMEs and whole weights after whole runs in float64
MOVED = {"data.augment.shift": 0.5, "data.augment.rotation": 90.0}  # so that shares differ in the landmarks they have
BASE: dict[str, object] = {
    "data.train_faces": 12,
    "data.val_faces": 5,
    "data.image_size": 64,
    "data.workers": 0,
    "model.backbone": "resnet18",
    "optim.lr": 1e-3,
    "optim.epochs": 1,
    "optim.batch_size": 4,
    "run.checkpoint_seconds": 0.0,
    "run.threads": 1,
    "run.precision": "float32",
    "run.channels_last": True,
}
SAME: dict[str, dict[str, object]] = {  # what must come out the same
    "uneven": {"optim.batch_size": 5, "optim.accumulate": 2, "optim.ema_decay": 0.5, "optim.epochs": 2, **MOVED},
    "last pass alone": {"optim.accumulate": 2, "optim.clip_norm": 0.1, **MOVED},
    "regression": {"model.head": "regression", "loss.name": "smooth_l1", **MOVED},
    "one face": {"optim.batch_size": 1, "data.train_faces": 2, "data.val_faces": 1, "data.image_size": 64},
    "one face, device": {
        "optim.batch_size": 1,
        "data.train_faces": 2,
        "data.image_size": 64,
        "data.augment_on": "device",
    },
    "train+val": {"data.train_on": "train+val", "data.train_faces": 3, "optim.batch_size": 8},
}
WHOLE: dict[str, object] = {"optim.epochs": 2, "optim.ema_decay": 0.5}  # to be stopped after an epoch and gone on with


class Small(nn.Module):
    """Five convolutions with batch norm, stride 2 to 32, and a head of `trainer.model`."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(config.run.seed)
            channels = [3, 8, 8, 12, 16, 16]
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in itertools.pairwise(channels)
            )
            landmarks = config.data.landmarks.count
            regression = config.model.head == "regression"
            self.head = RegressionHead([16], landmarks) if regression else PyramidHead(channels[2:], 8, landmarks)

    def forward(self, pictures: Tensor) -> Tensor:
        x, maps = pictures.to(next(self.parameters()).dtype) / 128 - 1, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.head(maps[1:])


@dataclasses.dataclass
class Outcome:
    """What one process saw of a run: reports, epochs that were in last.pt when they came, result or error."""

    heard: list[dict[str, float]]
    on_disk: list[int]
    result: engine.TrainResult | None
    error: str


def configured(root: Path, name: str, changes: dict[str, object]) -> TrainConfig:
    width = {} if changes.get("model.head") == "regression" else {"model.width": 8}
    places = {"data.cache_dir": str(root / "cache"), "run.output": str(root / name)}
    return TrainConfig().replace({**BASE, **width, **places, **changes})


def run(config: TrainConfig, *, double: bool = True, stop: int = 0, resume_from: Path | None = None) -> Outcome:
    """Trains; stops after epoch `stop` as Ctrl-C would."""
    outcome = Outcome([], [], None, "")
    last = Path(str(config.run.output)) / LAST

    def report(result: engine.EpochResult) -> None:
        outcome.heard.append(result.metrics)
        outcome.on_disk.append(len(checkpoint.load(last)["history"]))
        if result.epoch == stop:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_state, "build_model", Small)
        if double:
            patch.setattr(run_state, "to_device", lambda model, config: to_device(model, config).double())
        try:
            outcome.result = engine.train(config, report=report, resume_from=resume_from)
        except (Exception, KeyboardInterrupt) as error:
            outcome.error = f"{type(error).__name__}: {error}"
    return outcome


# --- what the two processes do, all in one start


def work(rank: int, root: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{root / 'meeting'}", rank=rank, world_size=2)
    two = {name: run(configured(root, f"{name} 2", changes)) for name, changes in SAME.items()}
    two["float32"] = run(configured(root, "float32 2", {"optim.batch_size": 12}), double=False)
    two["stopped"] = run(configured(root, "stopped 2", WHOLE), stop=1)
    path = root / "stopped 1" / LAST if rank == 0 else None  # the other machine does not see it
    two["gone on"] = run(configured(root, "stopped 1", WHOLE), resume_from=path)
    two["no number"] = run(configured(root, "faulty", {"loss.star_weight": 1e39}), double=False)
    two["no number later"] = run(configured(root, "faulty", {"optim.lr": 1e30, "data.train_faces": 8}), double=False)
    two |= faults(rank, root)
    torch.save((two, norms()), root / f"rank{rank}.pt")
    parallel.leave()


def faults(rank: int, root: Path) -> dict[str, Outcome]:
    """Errors of one process alone; the runs after them show that the ranks are still in step."""

    def full(*_: Any) -> None:
        raise DiskFullError("no room")

    def unreadable(*_: Any) -> None:
        raise DataError("picture 7")

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        if rank == 0:
            patch.setattr(checkpoint, "save", full)
        found["full"] = run(configured(root, "faulty", {}))
    with pytest.MonkeyPatch.context() as patch:
        if rank == 1:
            patch.setattr(engine, "load_splits", unreadable)
        found["data"] = run(configured(root, "faulty", {}))
    missing = root / "none.pt" if rank == 0 else None
    found["no checkpoint"] = run(configured(root, "faulty", {}), resume_from=missing)
    return found


def norms() -> dict[str, Tensor]:
    """This rank's share of what a batch norm gives, forward and backward; 2 and 5 faces of 7, and 0 and 1 of 1."""
    found = {}
    for count in (7, 1):
        module = nn.Sequential(nn.BatchNorm2d(3))
        x, pull = batch(count)
        batch_norm.synchronise(module)
        part = slice(count * 2 // 7) if parallel.rank() == 0 else slice(count * 2 // 7, count)
        share = x[part].requires_grad_()
        out = module(share)
        (out * pull[part]).sum().backward()
        found |= {f"out {count}": out.detach(), f"grad {count}": share.grad}
        found |= {f"{key} {count}": value.clone() for key, value in module.state_dict().items()}
        found |= {f"grad {key} {count}": value.grad for key, value in module.named_parameters()}
    return found


def batch(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return tuple(torch.randn(count, 3, 4, 4, generator=generator) * 3 + 5 for _ in range(2))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("parallel")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def both(root: Path) -> list[tuple[dict[str, Outcome], dict[str, Tensor]]]:
    """What rank 0 and rank 1 saw."""
    run(configured(root, "stopped 1", WHOLE), stop=1)
    multiprocessing.spawn(work, (root,), nprocs=2)
    return [torch.load(root / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.fixture(scope="module")
def two(both: list[Any]) -> dict[str, list[Outcome]]:
    """By case, what both ranks saw."""
    return {name: [outcomes[name] for outcomes, _ in both] for name in both[0][0]}


def numbers(outcome: Outcome) -> list[dict[str, float]]:
    """What was reported and can be the same twice."""
    times = ("images_per_second", "epoch_seconds", "memory_gb")
    return [{key: value for key, value in row.items() if key not in times} for row in outcome.heard]


def assert_close(a: Any, b: Any, tolerance: float, where: str = "") -> None:
    """Nested states of the same keys and types whose tensors differ by less than the tolerance, relative as a whole."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert a.dtype == b.dtype, where
        assert (a - b).double().norm() <= tolerance * a.double().norm() + 1e-9, where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_close(a[key], b[key], tolerance, f"{where}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_close(*pair, tolerance, f"{where}/{i}")
    elif a is None or isinstance(a, str):
        assert a == b, where
    else:
        assert a == pytest.approx(b, rel=tolerance, abs=1e-12, nan_ok=True), where


def assert_same_run(one: Outcome, ranks: list[Outcome], folders: tuple[Path, Path], tolerance: float) -> None:
    assert [one.error, *(outcome.error for outcome in ranks)] == [""] * 3
    assert ranks[0] == ranks[1]  # the same numbers, times and all
    assert_close(numbers(one), numbers(ranks[0]), tolerance)
    files = [{path.name for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1]
    parts = [("model", "average", "optimizer", "best_nme", "best_epoch", "identity"), ("model", "epoch", "val_nme")]
    for name, keys in zip((LAST, run_folder.BEST), parts, strict=True):
        states = [checkpoint.load(folder / name) for folder in folders]
        assert states[0].keys() == states[1].keys()
        for key in keys:
            assert_close(states[0][key], states[1][key], tolerance, f"{name}/{key}")
    if "best_val_nme.npy" in files[0]:
        nmes = [np.load(folder / "best_val_nme.npy") for folder in folders]
        np.testing.assert_allclose(*nmes, rtol=10 * tolerance)


# --- the same numbers


@pytest.mark.parametrize("name", SAME)
def test_two_processes_train_what_one_trains(root: Path, two: dict[str, list[Outcome]], name: str) -> None:
    one = run(configured(root, f"{name} 1", SAME[name]))
    folders = (root / f"{name} 1", root / f"{name} 2")
    assert_same_run(one, two[name], folders, TOLERANCE)


def test_in_float32_the_first_step_is_the_same_up_to_rounding(root: Path, two: dict[str, list[Outcome]]) -> None:
    one = run(configured(root, "float32 1", {"optim.batch_size": 12}), double=False)
    losses = [outcome.heard[0]["train/loss"] for outcome in (one, *two["float32"])]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    states = [checkpoint.load(root / name / LAST) for name in ("float32 1", "float32 2")]
    statistics = [{k: v for k, v in s["model"].items() if "running" in k or "tracked" in k} for s in states]
    assert_close(*statistics, 1e-5)
    gradients = [torch.cat([e["exp_avg"].flatten() for e in s["optimizer"]["state"].values()]) for s in states]
    assert_close(*gradients, 1e-3)


def test_the_shares_of_these_runs_differ_in_their_landmarks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(root, "none", SAME["uneven"])
    split = load_split(config.data, "train")
    whole = list(training_batches(split, config, 1))
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(parallel, "size", lambda: 2)
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        shares.append(list(training_batches(split, config, 1)))
    for batch, first, second in zip(whole, *shares, strict=True):
        assert (len(first.mask), len(second.mask)) == (2, 3)
        assert first.mask.float().mean() != second.mask.float().mean()
        for i in range(3):
            assert torch.equal(torch.cat([first[i], second[i]]), batch[i])


@pytest.mark.parametrize("count", [7, 1])
def test_the_batch_norm_of_two_shares_is_that_of_the_batch(both: list[Any], count: int) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    x, pull = batch(count)
    out = module(x.requires_grad_())
    (out * pull).sum().backward()
    shares = [found for _, found in both]
    torch.testing.assert_close(torch.cat([s[f"out {count}"] for s in shares]), out, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([s[f"grad {count}"] for s in shares]), x.grad, rtol=1e-4, atol=1e-5)
    for key, value in module.named_parameters():
        torch.testing.assert_close(sum(s[f"grad {key} {count}"] for s in shares), value.grad, rtol=1e-5, atol=1e-4)
    for key, value in module.state_dict().items():
        for share in shares:
            torch.testing.assert_close(share[f"{key} {count}"], value, rtol=1e-5, atol=1e-6)


# --- checkpoints


def test_a_run_of_two_processes_is_gone_on_with_by_one_and_the_other_way_round(
    root: Path, two: dict[str, list[Outcome]]
) -> None:
    whole = run(configured(root, "whole", WHOLE))
    assert [outcome.error for outcome in two["stopped"]] == ["KeyboardInterrupt: "] * 2
    alone = run(configured(root, "stopped 2", WHOLE), resume_from=root / "stopped 2" / LAST)
    assert_same_run(whole, [alone, alone], (root / "whole", root / "stopped 2"), TOLERANCE)
    assert_same_run(whole, two["gone on"], (root / "whole", root / "stopped 1"), TOLERANCE)


def test_no_process_reports_before_the_checkpoint_is_on_disk(two: dict[str, list[Outcome]]) -> None:
    assert [outcome.on_disk for outcome in two["uneven"]] == [[1, 2]] * 2


# --- errors end all processes alike


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no number", "NonFiniteError: loss is inf at batch 1 of epoch 1"),
        ("no number later", "NonFiniteError: loss is nan at batch 2 of epoch 1"),
        ("full", "DiskFullError: no room"),
        ("data", "DataError: picture 7"),
        ("no checkpoint", "CheckpointError: "),
    ],
)
def test_an_error_is_raised_on_both_ranks(two: dict[str, list[Outcome]], name: str, message: str) -> None:
    first, second = (outcome.error for outcome in two[name])
    assert first.startswith(message)
    assert first == second


# --- the command


def test_torchrun_trains_one_run_that_one_process_can_go_on_with(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "tiny.yaml"
    TrainConfig().replace(
        {
            **BASE,
            "data.cache_dir": str(root / "cache"),
            "run.threads": None,
            "data.image_size": 32,
            "optim.batch_size": 12,
            "model.width": 8,
        }
    ).dump(recipe)
    (tmp_path / "runs" / "tiny").mkdir(parents=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "trainer.train", str(recipe)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best val NME") == 1
    assert done.stdout.endswith(f"{Path('runs/tiny-2')}\n")
    folder = tmp_path / "runs" / "tiny-2"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny", "tiny-2"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert TrainConfig.load(folder / "config.yaml").run.threads == max(1, cores.available_cores() // 2)
    monkeypatch.chdir(tmp_path)
    assert train.main(["--resume", str(folder)]) == 0
    assert capsys.readouterr().out == f"{done.stdout.split('  ')[0]}  {folder}\n"
    shutil.rmtree(tmp_path / "runs")


def test_threads_are_shared_by_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 8)
    assert TrainConfig().with_threads().run.threads == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # of a launcher that has not started this process
    assert TrainConfig().with_threads().run.threads == 8
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for processes, threads in [("2", 4), ("3", 2), ("9", 1)]:
        monkeypatch.setenv("WORLD_SIZE", processes)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert TrainConfig().with_threads().run.threads == threads


def test_all_processes_but_the_first_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    for rank, spoken in [("1", False), ("0", True)]:
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as ended:
            train.main(["--no.such", "1"])
        assert ended.value.code == 2
        assert bool(capsys.readouterr().err) == spoken

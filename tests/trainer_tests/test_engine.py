"""The loop: it learns, it can be stopped anywhere, it stops by itself when the loss is no number, every knob turns."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from trainer import checkpoint, engine, run_state
from trainer.config import TrainConfig
from trainer.coords import to_normalised
from trainer.data.batches import evaluation_batches, training_batches
from trainer.data.crop_cache import load_split
from trainer.data.crops import CropSplit
from trainer.engine import EpochResult, train
from trainer.errors import CheckpointError, NonFiniteError
from trainer.evaluation import evaluate
from trainer.landmarks import ATTRIBUTES
from trainer.run_folder import BEST, LAST
from trainer.run_state import start_run

from .conftest import Tiny

PROJECT = Path(__file__).parents[2]
METRICS = ["train/loss", "val/nme", "val/fr10", "val/auc10", "best_nme", "lr", "images_per_second", "epoch_seconds"]
METRICS += ["memory_gb"]
TIMES = {"images_per_second", "epoch_seconds", "memory_gb"}  # of the machine, never the same twice
PLAIN = {f"data.augment.{name}": 0.0 for name in ("flip", "rotation", "scale", "shift", "colour", "occlusion", "blur")}
FEW = {"data.train_faces": 16, "data.val_faces": 4}

Saved = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> Saved:
    """Keeps name and state of what would be written, for tests that are not about files; the weights live on."""
    kept: Saved = []

    def keep(state: dict[str, Any], path: Path) -> None:
        kept.append((path.name, {**state, "history": list(state.get("history", []))}))

    monkeypatch.setattr(checkpoint, "save", keep)
    return kept


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock that dates checkpoints is a second later than the one before."""
    monkeypatch.setattr(engine, "monotonic", itertools.count().__next__)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def results(config: TrainConfig) -> list[dict[str, Any]]:
    """Trains; gives what was reported, without the times."""
    heard: list[EpochResult] = []
    train(config, report=heard.append)
    return [timeless(result.metrics) for result in heard]


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Nested states equal to the last bit, apart from times."""
    assert type(a) is type(b), where
    if isinstance(a, Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a.keys() - TIMES:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f"{where}/{i}")
    else:
        assert a == b, where


# --- a run and what it leaves


def test_progress_is_told_after_every_batch_and_ends_before_validation(tiny: Tiny) -> None:
    heard: list[tuple[int, float]] = []
    config = tiny({"optim.epochs": 2, "run.flip_test": True})
    train(config, progress=lambda epoch, share: heard.append((epoch, share)))
    data, batch = config.data, config.optim.batch_size
    batches = -(-data.train_faces // batch)
    part = data.train_faces / (data.train_faces + data.val_faces * 2 / 3)  # two forward passes cost two thirds
    expected = [(epoch, part * number / batches) for epoch in (1, 2) for number in range(1, batches + 1)]
    assert heard == [(epoch, pytest.approx(share)) for epoch, share in expected]


def test_training_lowers_loss_and_error_and_leaves_a_run_folder(tiny: Tiny) -> None:
    config = tiny(
        {
            "optim.epochs": 8,
            "optim.lr": 5e-3,
            "model.width": 64,
            "data.val_faces": 24,
            **PLAIN,
        }
    )
    heard: list[EpochResult] = []
    result = train(config, report=heard.append)
    loss = [r.metrics["train/loss"] for r in heard]
    nme = [r.metrics["val/nme"] for r in heard]
    assert loss[-1] < 0.7 * loss[0]
    assert min(nme) < 0.6 * nme[0]
    assert (result.best_nme, result.best_epoch, result.epochs) == (min(nme), int(np.argmin(nme)) + 1, 8)

    folder = Path(str(config.run.output))
    assert result.folder == folder
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "metrics.jsonl", LAST, BEST, "best_val_nme.npy"}
    assert TrainConfig.load(folder / "config.yaml") == config.with_threads()
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 9)) == [r.epoch for r in heard]
    assert all(set(row) == {"epoch", *METRICS} for row in rows)
    assert [{k: v for k, v in row.items() if k != "epoch"} for row in rows] == [r.metrics for r in heard]
    assert [row["best_nme"] for row in rows] == np.minimum.accumulate(nme).tolist()
    assert all(row[key] > 0 for key in TIMES for row in rows)

    best = checkpoint.load(folder / BEST)
    assert (best["val_nme"], best["epoch"]) == (result.best_nme, result.best_epoch)
    assert TrainConfig.from_tree(best["config"]) == config.with_threads()
    assert np.load(folder / "best_val_nme.npy").mean() == pytest.approx(result.best_nme)
    last = checkpoint.load(folder / LAST, config.identity())
    assert last["history"] == [r.metrics for r in heard]


def test_the_same_config_gives_the_same_numbers(tiny: Tiny, saved: Saved) -> None:
    first = results(tiny(FEW))
    torch.manual_seed(7)
    np.random.seed(7)
    assert results(tiny({**FEW, "data.workers": 2})) == first


def test_a_run_needs_a_folder(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match=r"run\.output = None"):
        train(tiny({"run.output": None}))


# --- stop and go on


@pytest.mark.parametrize(("epochs", "seconds", "stop"), [(3, 1, 1), (4, 2, 3)])
def test_stopping_and_going_on_is_bit_for_bit_as_if_never_stopped(
    tiny: Tiny, tmp_path: Path, ticking: None, epochs: int, seconds: int, stop: int
) -> None:
    changes = {
        "data.workers": 1,
        "data.train_faces": 16,
        "optim.epochs": epochs,
        "optim.batch_size": 4,
        "optim.accumulate": 3,  # 4 batches: an incomplete last step
        "optim.ema_decay": 0.5,
        "optim.warmup_steps": 3,
        "run.checkpoint_seconds": seconds,
    }
    whole, broken = (tiny({**changes, "run.output": str(tmp_path / "runs" / name)}) for name in ("whole", "broken"))
    heard: list[EpochResult] = []
    expected = train(whole, report=heard.append)

    def stop_after(result: EpochResult) -> None:
        if result.epoch == stop:
            raise KeyboardInterrupt

    folder = tmp_path / "runs" / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(broken, report=stop_after)
    assert len(rows_of(folder)) == stop
    stored = checkpoint.load(folder / LAST)["history"]
    assert len(stored) == stop // seconds * seconds

    again: list[EpochResult] = []
    result = train(broken, report=again.append, resume_from=folder / LAST)
    assert dataclasses.replace(result, folder=expected.folder) == expected
    assert [(r.epoch, timeless(r.metrics)) for r in again] == [(r.epoch, timeless(r.metrics)) for r in heard]
    assert [r.metrics for r in again][: len(stored)] == stored  # told again as they were, times and all
    assert [timeless(row) for row in rows_of(folder)] == [timeless(row) for row in rows_of(expected.folder)]
    for name in (LAST, BEST):
        states = [checkpoint.load(f / name) for f in (expected.folder, folder)]
        for state in states:
            state["config"]["run"].pop("output")
        assert states[0].get("average", 0) is not None
        assert_same(*states)


def test_a_finished_run_goes_on_to_nothing(tiny: Tiny) -> None:
    config = tiny({"optim.epochs": 1})
    first = train(config)
    before = (first.folder / LAST).read_bytes()
    heard: list[EpochResult] = []
    assert train(config, report=heard.append, resume_from=first.folder / LAST) == first
    assert [r.epoch for r in heard] == [1]
    assert (first.folder / LAST).read_bytes() == before


def test_going_on_with_another_config_is_refused(tiny: Tiny) -> None:
    folder = train(tiny({"optim.epochs": 1})).folder
    with pytest.raises(CheckpointError, match="belongs to another config"):
        train(tiny({"optim.epochs": 2}), resume_from=folder / LAST)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train(tiny({"optim.epochs": 1}), resume_from=folder / "none.pt")


# --- accumulation


def without_norms(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        setattr(module, name, nn.Identity() if isinstance(child, nn.BatchNorm2d) else without_norms(child))
    return module


@pytest.mark.parametrize(("whole", "passes"), [((8, 1), (4, 2)), ((24, 1), (4, 9))])
def test_accumulated_passes_make_a_step_as_one_large_batch(
    tiny: Tiny, saved: Saved, monkeypatch: pytest.MonkeyPatch, whole: tuple[int, int], passes: tuple[int, int]
) -> None:
    """Without batch norm, which sees each pass alone, and with every landmark in the picture; 9 passes are cut to 6."""
    build = run_state.build_model
    monkeypatch.setattr(run_state, "build_model", lambda config: without_norms(build(config)))
    base = {**PLAIN, "optim.lr": 1e-5, "optim.epochs": 1, "loss.name": "smooth_l1"}
    rows, gradients = [], []
    for batch_size, accumulate in (whole, passes):
        rows += results(tiny({**base, "optim.batch_size": batch_size, "optim.accumulate": accumulate}))
        moments = dict(saved)[LAST]["optimizer"]["state"].values()
        gradients.append(torch.cat([entry["exp_avg"].flatten() for entry in moments]))  # their running mean
    assert rows[1]["train/loss"] == pytest.approx(rows[0]["train/loss"], rel=1e-5)
    assert rows[1]["val/nme"] == pytest.approx(rows[0]["val/nme"], rel=1e-5)
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


@pytest.mark.parametrize(("faces", "accumulate", "steps"), [(24, 1, 6), (24, 2, 3), (24, 4, 2), (24, 9, 1), (27, 3, 2)])
def test_number_of_optimizer_steps_an_epoch(tiny: Tiny, saved: Saved, faces: int, accumulate: int, steps: int) -> None:
    changes = {"data.train_faces": faces, "optim.batch_size": 4, "optim.accumulate": accumulate, "optim.epochs": 1}
    results(tiny(changes))
    state = dict(saved)[LAST]["optimizer"]["state"]
    assert {int(entry["step"]) for entry in state.values()} == {steps}


# --- averaged weights


def test_averaged_weights_are_what_is_evaluated_and_kept(tiny: Tiny, saved: Saved) -> None:
    (row,) = results(tiny({"optim.ema_decay": 0.9, "optim.epochs": 1}))
    best, last = dict(saved)[BEST], dict(saved)[LAST]
    averaged = {k.removeprefix("module."): v for k, v in last["average"].items() if k != "n_averaged"}
    assert_same(dict(best["model"]), averaged)
    assert not torch.equal(averaged["head.maps.weight"], last["model"]["head.maps.weight"])
    (plain,) = results(tiny({"optim.epochs": 1}))
    assert plain["train/loss"] == row["train/loss"]
    assert plain["val/nme"] != row["val/nme"]


# --- what is no number


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"optim.lr": 1e30}, ["at batch 2 of epoch 1", "learning rate 1e+30", "optim.lr 1e+30", "loss.star_weight 1"]),
        ({"loss.star_weight": 1e39}, ["loss is inf at batch 1 of epoch 1", "optim.lr 0.001", "loss.star_weight 1e+39"]),
        ({"loss.name": "wing", "optim.lr": 1e30}, ["at batch 2 of epoch 1", "learning rate 1e+30"]),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run(
    tiny: Tiny, saved: Saved, changes: dict[str, Any], named: list[str]
) -> None:
    heard: list[EpochResult] = []
    with pytest.raises(NonFiniteError) as error:
        train(tiny({"optim.schedule": "constant", **changes}), report=heard.append)
    for text in named:
        assert text in str(error.value)
    assert ("star_weight" in str(error.value)) == ("loss.name" not in changes)
    assert heard == []
    assert saved == []


def test_a_validation_error_that_is_no_number_stops_the_run(tiny: Tiny, saved: Saved) -> None:
    """One step an epoch: the loss is seen before the step that breaks the weights."""
    config = tiny({"optim.batch_size": 24, "optim.lr": 1e30, "optim.schedule": "constant"})
    with pytest.raises(
        NonFiniteError, match=r"validation NME is no number for \d+ of \d+ faces, epoch 1 .*1e\+30.*star_weight 1"
    ):
        train(config)
    assert saved == []


# --- every knob turns

KNOBS: list[tuple[str, dict[str, Any], Any]] = [
    ("model.backbone", {}, "resnet34"),
    ("model.head", {}, "deconv"),
    ("model.width", {}, 16),
    ("model.deconv_layers", {"model.head": "deconv"}, 2),
    ("loss.name", {}, "smooth_l1"),
    ("loss.star_weight", {}, 2.0),
    ("loss.distance", {}, "wing"),
    ("optim.name", {"optim.weight_decay": 0.1}, "adamw"),
    ("optim.lr", {}, 2e-3),
    ("optim.weight_decay", {}, 0.1),
    ("optim.epochs", {}, 3),
    ("optim.batch_size", {}, 4),
    ("optim.accumulate", {}, 2),
    ("optim.warmup_steps", {}, 2),
    ("optim.warmup_from", {"optim.warmup_steps": 2}, 0.5),
    ("optim.schedule", {}, "constant"),
    ("optim.milestones", {"optim.schedule": "multistep"}, [1]),
    ("optim.gamma", {"optim.schedule": "multistep", "optim.milestones": [1]}, 0.5),
    ("optim.clip_norm", {}, 0.01),
    ("optim.ema_decay", {}, 0.5),
    ("run.seed", {}, 1),
    ("run.precision", {}, "bfloat16"),
    ("run.flip_test", {}, False),
]
ELSEWHERE = {
    "model.pretrained",
    "run.output",
    "run.device",
    "run.threads",
    "run.channels_last",
    "run.compile",
    "run.checkpoint_seconds",
}


def test_the_table_of_knobs_is_complete() -> None:
    sections = ("model", "loss", "optim", "run")
    known = {f"{section}.{name}" for section in sections for name in TrainConfig().tree()[section]}
    assert {key for key, _, _ in KNOBS} | ELSEWHERE == known


_baselines: dict[str, list[dict[str, Any]]] = {}


@pytest.mark.parametrize(("key", "requires", "value"), KNOBS)
def test_a_knob_moves_the_numbers(tiny: Tiny, saved: Saved, key: str, requires: dict[str, Any], value: Any) -> None:
    name = json.dumps(requires)
    if name not in _baselines:
        _baselines[name] = results(tiny({**FEW, **requires}))
    moved = results(tiny({**FEW, **requires, key: value}))
    assert moved != _baselines[name]
    assert all(math.isfinite(v) for row in moved for v in row.values())


def test_pretrained_weights_are_where_training_starts(tiny: Tiny, tmp_path: Path) -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "r18.pt")
    run = start_run(tiny({"model.pretrained": str(tmp_path / "r18.pt")}))
    assert torch.equal(run.model.backbone.stem[0].weight, weights["conv1.weight"])


def test_checkpoint_every_so_many_seconds_and_at_the_end(tiny: Tiny, saved: Saved, ticking: None) -> None:
    results(tiny({**FEW, "optim.epochs": 5, "run.checkpoint_seconds": 2}))
    assert [len(state["history"]) for name, state in saved if name == LAST] == [2, 4, 5]


def test_a_compiled_network_is_the_same_network(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled by a backend that changes nothing, so that no compiler is needed: the numbers and the names stay."""
    compiled = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compiled.append(graph)
        return graph.forward

    compile_in_place = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile_in_place(self, backend=backend))
    plain, config = tiny(), tiny({"run.compile": True})
    assert results(plain) == results(config)
    assert compiled
    assert start_run(plain).model.state_dict().keys() == start_run(config).model.state_dict().keys()


def test_batches_for_a_gpu_are_page_locked(tiny: Tiny, faces: CropSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page-locking needs a GPU; here it is only counted, on the way that the loop takes for one."""
    locked = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: locked.append(self.shape) or self)
    plain = list(training_batches(faces, tiny(), 1))
    assert not locked
    pinned = list(training_batches(faces, tiny({"data.workers": 1}), 1, pin=True))
    assert len(locked) == 3 * len(pinned)
    for a, b in zip(plain, pinned, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))


def test_threads_device_layout_and_folder(tiny: Tiny, tmp_path: Path, saved: Saved) -> None:
    start_run(tiny({"run.threads": 2}))
    assert torch.get_num_threads() == 2
    for channels_last in (True, False):
        run = start_run(tiny({"run.channels_last": channels_last, "run.device": "cpu"}))
        weight = run.model.backbone.stages[0][0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert run.device == torch.device("cpu")
    folder = tmp_path / "runs" / "elsewhere" / "deep"
    assert train(tiny({"optim.epochs": 1, "run.output": str(folder)})).folder == folder
    assert (folder / "metrics.jsonl").exists()


# --- evaluation


class Oracle(nn.Module):
    """Knows every crop, plain or mirrored, and answers with its landmarks, moved by `bias` in [-1, 1]."""

    def __init__(self, split: CropSplit, flip: list[int], bias: tuple[float, float] = (0, 0), cells: int = 0) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))
        (pictures,) = evaluation_batches(split, 32, len(split))
        truth = torch.from_numpy(to_normalised(split.landmarks, 32))
        mirrored = (truth * torch.tensor([-1.0, 1.0]))[:, flip]
        self.answers = {p.numpy().tobytes(): t for p, t in zip(pictures, truth, strict=True)}
        self.answers |= {p.flip(-1).numpy().tobytes(): t for p, t in zip(pictures, mirrored, strict=True)}
        self.bias, self.cells = torch.tensor(bias), cells

    def forward(self, pictures: Tensor) -> Tensor:
        assert not self.training
        points = torch.stack([self.answers[p.numpy().tobytes()] for p in pictures]) + self.bias  # (B, K, 2)
        if not self.cells:
            return points
        axis = torch.linspace(-1, 1, self.cells)
        x, y = axis - points[..., :1], axis - points[..., 1:]
        return -50 * (x.square()[..., None, :] + y.square()[..., :, None])


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("cells", [0, 32])
def test_a_perfect_network_makes_no_error(tiny: Tiny, cells: int, flip_test: bool) -> None:
    config = tiny({"run.flip_test": flip_test, "data.box_scale": 1.5})  # no landmark near the heatmap's edge
    split = load_split(config.data, "val")
    found = evaluate(Oracle(split, config.data.landmarks.flip, cells=cells).train(), split, config)
    tolerance = 1e-2 if cells else 1e-6  # a bump that the edge cuts is a little off
    assert found.nme.shape == (8,)
    assert found.nme.max() < tolerance
    assert found.summary() == pytest.approx({"nme": 0, "fr10": 0, "auc10": 1}, abs=10 * tolerance)
    np.testing.assert_allclose(found.pred, split.landmarks, atol=100 * tolerance)


def test_the_flip_test_averages_with_the_mirror(tiny: Tiny) -> None:
    """An error to the right is cancelled by the mirrored picture's, an error downwards stays."""
    split = load_split(tiny().data, "val")
    flip = tiny().data.landmarks.flip
    errors = {}
    for bias in [(0.1, 0.0), (0.0, 0.1)]:
        for flip_test in (False, True):
            found = evaluate(Oracle(split, flip, bias), split, tiny({"run.flip_test": flip_test}))
            errors[bias, flip_test] = found.nme
    expected = 0.1 * 31 / 2 / split.norms
    np.testing.assert_allclose(errors[(0.1, 0.0), False], expected, rtol=1e-4)
    np.testing.assert_allclose(errors[(0.1, 0.0), True], 0, atol=1e-6)
    np.testing.assert_allclose(errors[(0.0, 0.1), False], expected, rtol=1e-4)
    np.testing.assert_allclose(errors[(0.0, 0.1), True], expected, rtol=1e-4)


def test_evaluation_does_not_depend_on_the_batch_size_and_restores_the_mode(tiny: Tiny) -> None:
    config = tiny()
    model, split = start_run(config).model.train(), load_split(config.data, "val")
    small, large = (evaluate(model, split, config.replace({"optim.batch_size": size})) for size in (3, 100))
    np.testing.assert_allclose(small.nme, large.nme, rtol=1e-4)
    assert model.training


def test_the_report_has_subsets_and_parts(tiny: Tiny) -> None:
    config = tiny({"data.val_faces": 24})
    split = load_split(config.data, "val")
    assert split.attributes is not None
    bias = (0.05, 0.0)
    found = evaluate(Oracle(split, config.data.landmarks.flip, bias), split, config.replace({"run.flip_test": False}))
    report = found.report(ATTRIBUTES)
    assert set(report) == {"nme", "fr10", "auc10", "norm", "faces", "subsets", "parts"}
    assert report["faces"] == 24
    assert list(report["parts"]) == list(config.data.landmarks.parts)
    assert all(value == pytest.approx(report["nme"], rel=1e-4) for value in report["parts"].values())
    for name, chosen in zip(ATTRIBUTES, split.attributes.T, strict=True):
        if chosen.any():
            assert report["subsets"][name]["faces"] == chosen.sum()
            assert report["subsets"][name]["nme"] == pytest.approx(found.nme[chosen].mean())
        else:
            assert name not in report["subsets"]


# --- the published recipe


@pytest.mark.slow
def test_two_steps_of_the_wflw_recipe(test_data: Path, tmp_path: Path, saved: Saved) -> None:
    wflw_list = "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt"
    config = TrainConfig.load(
        PROJECT / "configs/train/wflw_resnet50_star.yaml",
        {
            "data.root": str(test_data / "wflw_sample"),
            "data.val_list": wflw_list,  # four faces in all: too few to cut
            "data.cache_dir": str(tmp_path / "cache"),
            "model.pretrained": "none",
            "optim.batch_size": "2",
            "optim.accumulate": "1",
            "optim.epochs": "1",
            "optim.milestones": "[]",
            "run.output": str(tmp_path / "run"),
            "run.threads": "1",
        },
    )
    (row,) = results(config)
    assert row["lr"] == pytest.approx(5e-4 * (0.001 + 0.999 / 500))
    assert math.isfinite(row["train/loss"])
    state = dict(saved)[LAST]
    assert {int(entry["step"]) for entry in state["optimizer"]["state"].values()} == {2}
    assert state["model"]["head.maps.weight"].shape == (98, 128, 1, 1)


# --- train + val

BOTH = {**FEW, "data.train_on": "train+val", "optim.epochs": 3}


def test_a_final_model_is_trained_on_train_and_val_and_keeps_its_last_epoch(tiny: Tiny) -> None:
    config = tiny({**BOTH, "optim.batch_size": 20, "optim.ema_decay": 0.5})
    heard: list[EpochResult] = []
    result = train(config, report=heard.append)
    assert (result.best_nme, result.best_epoch, result.epochs) == (math.inf, 3, 3)
    folder = result.folder
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "metrics.jsonl", LAST, BEST}
    without_val = {name for name in METRICS if "val/" not in name and name != "best_nme"}
    assert all(set(row) == {"epoch", *without_val} for row in rows_of(folder))
    assert [r.epoch for r in heard] == [1, 2, 3]
    best, last = checkpoint.load(folder / BEST), checkpoint.load(folder / LAST)
    assert best["epoch"] == 3
    assert math.isnan(best["val_nme"])
    averaged = {k.removeprefix("module."): v for k, v in last["average"].items() if k != "n_averaged"}
    assert_same(dict(best["model"]), averaged)
    steps = {int(entry["step"]) for entry in last["optimizer"]["state"].values()}
    assert steps == {3}  # all 20 faces in one batch an epoch


def test_the_validation_faces_move_a_final_model(tiny: Tiny, saved: Saved) -> None:
    plain = results(tiny({**FEW, "data.train_faces": 20}))
    assert results(tiny({**BOTH, "optim.epochs": 2})) != [
        {key: row[key] for key in ("train/loss", "lr")} for row in plain
    ]
    (more,) = results(tiny({**BOTH, "optim.epochs": 1, "data.val_faces": 8}))
    (few,) = results(tiny({**BOTH, "optim.epochs": 1}))
    assert more["train/loss"] != few["train/loss"]
    assert [name for name, _ in saved].count(BEST) >= 3


def test_a_final_model_that_was_interrupted_is_the_same_bit_for_bit(tiny: Tiny, tmp_path: Path, ticking: None) -> None:
    changes = {**BOTH, "optim.ema_decay": 0.5, "run.checkpoint_seconds": 1}
    whole, broken = (tiny({**changes, "run.output": str(tmp_path / "runs" / name)}) for name in ("whole", "broken"))
    expected = train(whole)

    def stop(result: EpochResult) -> None:
        if result.epoch == 2:
            raise KeyboardInterrupt

    folder = tmp_path / "runs" / "broken"
    with pytest.raises(KeyboardInterrupt):
        train(broken, report=stop)
    assert not (folder / BEST).exists()  # nothing says that these weights are good for anything
    again: list[EpochResult] = []
    result = train(broken, report=again.append, resume_from=folder / LAST)
    assert dataclasses.replace(result, folder=expected.folder) == expected
    assert [timeless(row) for row in rows_of(folder)] == [timeless(row) for row in rows_of(expected.folder)]
    assert [r.epoch for r in again] == [1, 2, 3]
    for name in (LAST, BEST):
        states = [checkpoint.load(f / name) for f in (expected.folder, folder)]
        for state in states:
            state["config"]["run"].pop("output")
        if name == BEST:
            assert all(math.isnan(state.pop("val_nme")) for state in states)
        assert_same(*states)


def test_train_and_val_is_another_config_than_train(tiny: Tiny) -> None:
    plain = tiny(FEW)
    assert plain.replace({"data.train_on": "train+val"}).identity() != plain.identity()
    folder = train(plain.replace({"optim.epochs": 1})).folder
    with pytest.raises(CheckpointError, match="belongs to another config"):
        train(tiny({**BOTH, "optim.epochs": 1}), resume_from=folder / LAST)

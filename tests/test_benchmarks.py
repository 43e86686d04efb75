"""The benchmarks measure what they say; their times are not tested."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from prepared import teach

from benchmarks import gpu
from benchmarks.__main__ import NAMES, write_section
from benchmarks.asking import configured, crossing, made_up
from benchmarks.growth import EPOCHS
from benchmarks.kernel import landmark_logits, published_star
from benchmarks.measuring import Table, medians_in_turn, time_in_turn
from benchmarks.nodes import shares
from benchmarks.scale import _COSTS, run_simulated
from benchmarks.watch import Threads, Timed
from sweep.core.trial import State
from trainer.config import TrainConfig
from trainer.losses import star_loss


def test_the_published_form_is_the_same_loss() -> None:
    logits, target = landmark_logits((2, 5, 24, 20), spread=0.15)
    found = {}
    for loss in (published_star, star_loss):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        found[loss] = value.item(), leaf.grad
    (theirs, their_gradient), (ours, our_gradient) = found.values()
    assert abs(ours - theirs) < 1e-5 * abs(theirs)
    assert (our_gradient - their_gradient).abs().max() < 1e-3 * their_gradient.abs().max()


def test_variants_are_called_in_turn_and_the_first_rounds_are_not_counted(monkeypatch) -> None:
    calls, clock = [], iter([0, 9, 20, 21, 22, 25, 30, 33, 40, 47])
    monkeypatch.setattr("benchmarks.measuring.time.perf_counter", lambda: next(clock))
    variants = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert time_in_turn(variants, rounds=2, warmup=1) == {"a": 2.0, "b": 5.0}
    assert calls == ["a", "b"] * 3


def test_medians_are_of_values_taken_in_turn() -> None:
    a, b = iter([(3.0, 1.0), (1.0, 2.0), (2.0, 3.0)]), iter([7.0, 9.0, 8.0])
    assert medians_in_turn({"a": a.__next__, "b": b.__next__}, rounds=3) == {"a": (2.0, 3.0), "b": 8.0}
    calls: list[str] = []
    medians_in_turn({name: lambda name=name: calls.append(name) or 0.0 for name in "ab"}, rounds=2)
    assert calls == ["a", "b"] * 2


def test_a_section_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    table = Table("Title", ["a", "b"], [["1", "2"]], "Conditions.").markdown()
    for name in reversed(NAMES):
        write_section(path, name, f"{table} {name}")
    before = path.read_text()
    assert [before.index(f"<!-- {name} -->") for name in NAMES] == sorted(before.index(f"<!-- {n} -->") for n in NAMES)
    write_section(path, "data", "## Other\n\ntext")
    after = path.read_text()
    assert f"Conditions. {NAMES[0]}\n" in after
    assert "Conditions. data" not in after
    assert "## Other\n\ntext\n" in after
    write_section(path, "data", f"{table} data")
    assert path.read_text() == before


GPU_ON_CPU = {
    "model.backbone": "resnet18",
    "model.width": "8",
    "data.image_size": "32",
    "data.train_faces": "16",
    "data.val_faces": "4",
    "data.workers": "1",
    "optim.batch_size": "8",
    "optim.epochs": "1",
    "run.device": "cpu",
    "run.precision": "float32",
    "run.channels_last": "true",
}
FASTEST = {"run.precision": "auto", "run.channels_last": "auto"}
STEADY = [name for name in gpu.PARTS if "compiled" not in name and "two" not in name and "on the GPU" not in name]


@pytest.mark.parametrize("name", STEADY)
def test_every_part_of_the_gpu_benchmark_measures_something(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(gpu, "_SECONDS", 0.05)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)  # as it was, afterwards
    found = gpu.PARTS[name](GPU_ON_CPU | (FASTEST if name == "computes in" else {}))
    assert found.get("rate", 1.0) > 0
    assert "rate" in found or found["measured"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", ["two trials on half a GPU each", "one run by two processes"])
def test_parts_of_the_gpu_benchmark_that_start_others(name: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    teach(TrainConfig.load(None, GPU_ON_CPU | {"run.threads": "1"}), tmp_path)
    monkeypatch.chdir(Path(__file__).parents[1])
    found = gpu._alone(name, GPU_ON_CPU, 600)
    assert "images/s" in found["measured"], found


def test_parts_that_fail_or_take_too_long_are_told(monkeypatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    failed = gpu._alone("trainer, faces augmented on the CPU", {"optim.epochs": "many"}, 600)
    assert failed["judged"].startswith("failed: trainer.errors.ConfigError")
    assert gpu._alone("computes in", GPU_ON_CPU, 0.01)["judged"] == "not done in 0 s"


def test_the_gpu_table_judges_against_the_fastest_bare_loop(monkeypatch) -> None:
    rates = {"bare loop, float32": 50.0, "bare loop, bfloat16": 100.0, "bare loop, bfloat16, compiled": 200.0}
    found = {name: {"rate": rates.get(name, 96.0)} for name in gpu.PARTS} | {
        "computes in": {"measured": "a", "judged": "b"}
    }
    monkeypatch.setattr(gpu, "_alone", lambda name, settings, seconds: found[name])
    rows = {row[0]: row[1:] for row in gpu.measure(GPU_ON_CPU).rows}
    assert list(rows) == list(gpu.PARTS)
    assert rows["computes in"] == ["a", "b"]
    assert rows["bare loop, float32"] == ["50 images/s", "0.50 of the fastest bare loop, not compiled"]
    assert rows["trainer, faces augmented on the CPU"][1] == "0.96 of the fastest bare loop, not compiled: keeps up"


def test_without_a_gpu_its_benchmark_says_so(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="finds no CUDA GPU"):
        gpu.measure()


def test_the_tables_are_markdown() -> None:
    lines = Table("Title", ["a", "b"], [["1", "2"]], "Conditions.").markdown().splitlines()
    assert lines == ["## Title", "", "| a | b |", "| --- | --- |", "| 1 | 2 |", "", "Conditions."]


def test_landmark_logits_peak_near_their_targets() -> None:
    logits, target = landmark_logits((2, 3, 32, 32), spread=0.1)
    assert logits.shape == (2, 3, 32, 32)
    x = torch.softmax(logits.flatten(2), -1).unflatten(2, (32, 32)).sum(2) @ torch.linspace(-1, 1, 32)
    assert (x - target[..., 0]).abs().mean() < 0.1


def test_the_nodes_of_a_cluster_share_its_slots() -> None:
    assert shares(200, 16) == [12, 13] * 8
    assert sum(shares(60, 7)) == 60


def test_a_limit_is_crossed_between_two_sizes_in_logarithms() -> None:
    assert crossing({1000: 10.0, 100_000: 1000.0, 10: 5.0}, 100.0) == pytest.approx(10_000)
    assert crossing({1000: 10.0, 100_000: 99.0}, 100.0) is None


def test_made_up_trials_have_curves_that_fall_up_to_where_halving_left_them(tmp_path: Path) -> None:
    records = list(made_up(configured(200, tmp_path, {}), 200))
    assert [r.number for r in records] == list(range(200))
    assert {r.epochs for r in records} == {1, 2, 4, EPOCHS}
    assert all((r.state is State.COMPLETE) is (r.epochs == EPOCHS) for r in records)
    assert all(list(r.curve.values()) == sorted(r.curve.values(), reverse=True) for r in records)


def test_a_sweep_is_simulated_to_its_last_trial_with_a_cost_for_every_report() -> None:
    run = run_simulated(12, 4)
    assert run.trials == 12
    assert 12 <= run.reports <= 12 * EPOCHS
    assert len(run.costs()) == len(_COSTS)


def test_calls_are_timed_where_they_give_something() -> None:
    class Giver:
        def give(self, what: int | None) -> int | None:
            return what

    with Timed(Giver, "give") as timed:
        assert [Giver().give(what) for what in (2, None, 3)] == [2, None, 3]
    Giver().give(4)
    assert len(timed.seconds) == 2
    assert timed.given == 5


def test_a_thread_that_has_ended_is_remembered() -> None:
    worked, looked = threading.Event(), threading.Event()

    def work() -> None:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        worked.set()
        looked.wait()

    with Threads() as threads:
        worker = threading.Thread(target=work, name="worker")
        worker.start()
        worked.wait()
        seen = threads.seconds()["worker"]
        looked.set()
        worker.join()
        assert 0.1 < seen <= threads.seconds()["worker"] < 1

"""Packings are measured with real processes that train at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest
from prepared import teach_sweep

from sweep import run
from sweep.driver import preflight
from sweep.driver.preflight import SlotThroughput, alternatives, measure_throughput
from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split
from trainer.speed import Speed

SMALL = {
    "data.train_faces": 16,
    "data.val_faces": 4,
    "data.image_size": 32,
    "model.backbone": "resnet18",
    "model.width": 8,
    "optim.batch_size": 8,
    "run.precision": "float32",
    "run.channels_last": True,
}


@pytest.mark.parametrize(
    ("each", "slots", "available", "line"),
    [
        (2e9, 4, 64e9, "  memory     8.00 GB of 64.00 GB for 4 at once"),
        (2e9, 4, 8e9, "  memory     8.00 GB of 8.00 GB for 4 at once; too much: try --slots 3"),
        (9e9, 2, 8e9, "  memory     18.00 GB of 8.00 GB for 2 at once; too much: try --slots 1"),
        (2e9, 4, None, None),
    ],
)
def test_the_memory_of_all_trials_is_compared_with_what_there_is(each, slots, available, line) -> None:
    assert preflight._compare_memory(each, slots, available) == ([line] if line else [])


@pytest.mark.parametrize(
    ("slots", "threads", "expected"),
    [
        (2, 1, [(1, 2)]),
        (1, 2, [(2, 1)]),
        (8, 4, [(4, 8), (16, 2)]),
        (1, 1, []),
        (3, 1, []),
        (3, 2, [(6, 1)]),
    ],
)
def test_neighbours_use_as_many_cores(slots: int, threads: int, expected: list[tuple[int, int]]) -> None:
    assert alternatives(slots, threads) == expected


@pytest.mark.long
@pytest.mark.slow
def test_two_trials_are_measured_at_the_same_time(tmp_path: Path) -> None:
    config = TrainConfig().replace({**SMALL, "data.cache_dir": str(tmp_path)})
    for split in ("train", "val"):
        load_split(config.data, split)
    throughput = measure_throughput(config, slots=2, threads=1, seconds=0.5)
    assert (throughput.slots, throughput.threads, len(throughput.speeds)) == (2, 1, 2)
    assert throughput.images_per_second == sum(speed.images_per_second for speed in throughput.speeds)
    assert all(speed.images_per_second > 0 for speed in throughput.speeds)


def test_a_dry_run_says_what_it_measured_and_what_would_be_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The processes are replaced by figures: two trials of one thread 100 images/s each, one of two threads 250."""

    def measured(config: TrainConfig, slots: int, threads: int) -> SlotThroughput:
        speed = Speed({1: 100.0, 2: 250.0}[threads], 2.0, 1_000_000_000, 132_000_000)
        return SlotThroughput(slots, threads, (speed,) * slots)

    monkeypatch.setattr(preflight, "measure_throughput", measured)
    monkeypatch.setattr(preflight, "check_local", lambda config: 2)
    small = [text for key, value in SMALL.items() for text in (f"--train.{key}", str(value))]
    words = ["--dry-run", "--output", str(tmp_path / "out"), "--trials", "10", "--train.data.cache_dir", str(tmp_path)]
    words += [*small, "--timeout_minutes", "0.05"]
    teach_sweep(words, tmp_path)
    assert run.main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "100.0 images/s a trial" in text
    assert "timeout an epoch takes 2 s: raise timeout_minutes = 0.05" in text
    assert "2 trials at once with 1 thread: 200.0 images/s together, as configured" in text
    assert "1 trial at once with 2 threads: 250.0 images/s together (+25%; try --resources.cpus 2)" in text
    assert "faces train 16 faces in 16 pictures; " in text
    assert "val 4 faces in 4 pictures; " in text
    assert "answers" in text
    assert not (tmp_path / "out" / "demo").exists()  # nothing was started


def test_for_gpus_a_dry_run_measures_one_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Several processes would all take the first of the GPUs that Ray would share out."""
    asked = []

    def measured(config: TrainConfig, slots: int, threads: int) -> SlotThroughput:
        asked.append((slots, threads))
        return SlotThroughput(slots, threads, (Speed(100.0, 2.0, 1_000_000_000, 132_000_000),) * slots)

    monkeypatch.setattr(preflight, "measure_throughput", measured)
    monkeypatch.setattr(preflight, "check_local", lambda config: 8)
    small = [text for key, value in SMALL.items() for text in (f"--train.{key}", str(value))]
    words = ["--dry-run", "--output", str(tmp_path / "out"), "--resources.gpus", "1"]
    words += ["--train.data.cache_dir", str(tmp_path), *small]
    teach_sweep(words, tmp_path)
    assert run.main(words) == 0
    assert asked == [(1, 1)]
    assert "packing" not in capsys.readouterr().out

"""One trial with all threads against a trial a core: which default serves a small and a large network."""

from __future__ import annotations

from functools import partial

from benchmarks.measuring import Table, medians_in_turn
from sweep.driver.preflight import measure_throughput
from trainer.config import TrainConfig
from trainer.cores import available_cores
from trainer.data.crop_cache import load_split

SETUPS: dict[str, dict[str, str]] = {
    "ResNet-18, 64 px, batch 32": {
        "model.backbone": "resnet18",
        "data.image_size": "64",
        "data.train_faces": "800",
    },
    "ResNet-50, 256 px, batch 8": {
        "model.backbone": "resnet50",
        "data.image_size": "256",
        "optim.batch_size": "8",
        "data.train_faces": "64",
        "data.val_faces": "8",
    },
}
ROUNDS, SECONDS = 3, 10.0


def measure() -> Table:
    """Measures both packings of every network in turn."""
    cores = available_cores()
    packings = [(cores, 1), (1, cores)]
    rows = []
    for name, settings in SETUPS.items():
        config = TrainConfig.load(None, settings)
        load_split(config.data, "train"), load_split(config.data, "val")
        median = medians_in_turn({packing: partial(_rate, config, *packing) for packing in packings}, ROUNDS)
        for (slots, threads), rate in median.items():
            rows.append([name, f"{slots} x {threads}", f"{rate:.1f}", f"{rate / median[1, cores]:.2f}"])
    return Table(
        "Packing trials onto the cores",
        ["network", "trials x threads", "images/s together", "of one trial with all threads"],
        rows,
        f"Real steps with augmentation, {SECONDS:g} s each, {ROUNDS} rounds in turn, median.",
    )


def _rate(config: TrainConfig, slots: int, threads: int) -> float:
    return measure_throughput(config, slots, threads, seconds=SECONDS).images_per_second

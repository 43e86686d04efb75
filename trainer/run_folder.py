"""The files of a run folder: their names, and those that are text. Imports no torch, so that all may use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.config import TrainConfig

LAST, BEST = "last.pt", "best.pt"
METRICS_FILE, CONFIG_FILE = "metrics.jsonl", "config.yaml"
SKIPPED_FILE = "skipped_faces.txt"  # in a run or sweep folder: faulty faces that were left out, a line each
FACES_FILE = "best_val_nme.npy"  # in a run folder: NME of every validation face at the best epoch, (N,)


def write_config(config: TrainConfig, folder: Path) -> None:
    """Writes the complete config into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    config.dump(folder / CONFIG_FILE)


def write_history(history: list[dict[str, float]], folder: Path) -> None:
    """Writes metrics.jsonl anew: a line an epoch."""
    text = "".join(json.dumps({"epoch": epoch, **row}) + "\n" for epoch, row in enumerate(history, 1))
    (folder / METRICS_FILE).write_text(text, encoding="utf-8")


def write_skipped(skipped: Mapping[str, Iterable[object]], folder: Path) -> None:
    """Writes the faces that were left out of each split, where there are any."""
    lines = [f"{split}: {fault}\n" for split, faults in skipped.items() for fault in faults]
    if lines:
        (folder / SKIPPED_FILE).write_text("".join(lines), encoding="utf-8")


def append_history(row: dict[str, float], epoch: int, folder: Path) -> None:
    """Adds the line of one epoch, from 1, to metrics.jsonl."""
    with open(folder / METRICS_FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"epoch": epoch, **row}) + "\n")

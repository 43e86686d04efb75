"""python make.py: a small study as this program leaves it on disk, packed into study.tar.gz, for later ones to read.

It holds a sweep that Ctrl-C has ended in the middle of a trial, what it has sent to MLflow, what it says of its winner
trained again, its registered model, and in `expected.json` what this program says of all that. Weights take 45 MB
a network, so theirs are made small (`slim`), and only their shapes and what is said of them are the sweep's.

Made with commit 445cb38 by `PYTHONPATH=.:tests python tests/old_study/make.py`; make another beside it rather than
this one anew, when something that is on disk changes.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from harness import CALM, Sweep
from waiting import PATIENCE, wait_for

from sweep import load
from trainer.serving import LandmarkPredictor
from trainer.synthetic import draw_face

HOME = Path(__file__).parent
UNUSED = ("/cache", "__pycache__", "ced.png", "/reruns/", "/card/", "/artifacts/checkpoint", "serving_input")
SETTINGS = CALM | {
    "trials": 4,
    "keep": 1,
    "pruner": CALM["pruner"] | {"min_epochs": 2},
    "train": CALM["train"]
    | {
        "optim": {"epochs": 12, "batch_size": 4, "ema_decay": 0.5},
        "run": {"precision": "float32", "checkpoint_seconds": 0.001},
    },
}


def slim(value, optimizer=False):
    """A checkpoint with its tensors made small: each number is rounded to what bfloat16 tells apart; a kernel shows
    the same few numbers at all its places, shifted; the optimizer's, which are updated in place, are made constant."""
    if isinstance(value, dict):
        return {key: slim(item, optimizer or key == "optimizer") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(slim(item, optimizer) for item in value)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.ndim == 0:
        return value
    rounded = value.bfloat16().to(value.dtype)
    if value.ndim < 2:
        return rounded
    if optimizer:
        return torch.full_like(rounded, rounded.abs().mean().item())
    strides = (1, 2, 3, 5)[: value.ndim]
    count = 1 + sum(stride * (size - 1) for stride, size in zip(strides, value.shape, strict=True))
    return rounded.flatten()[:count].clone().as_strided(value.shape, strides)


def command(home: Path, *words: str) -> None:
    ended = subprocess.run([sys.executable, "-m", *words], cwd=home, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, words


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "study"
        sweep = Sweep(home, settings=SETTINGS)
        with sweep.start() as process:
            wait_for(lambda: (sweep.folder / "events.jsonl").exists(), "the sweep begins")
            wait_for(lambda: sweep.reports()[3, 1], "the last trial has an epoch")
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=PATIENCE)
        assert process.returncode == 130, process.returncode
        assert (sweep.folder / "trials" / "0003" / "last.pt").exists()
        command(home, "sweep.rerun", "faces", "--output", "out")
        for path in home.rglob("*.pt"):
            torch.save(slim(torch.load(path, weights_only=True)), path)
        command(home, "sweep.card", "faces", "--output", "out")
        (home / "expected.json").write_text(json.dumps(told(sweep), indent=1))
        pack(home)


def drawn() -> np.ndarray:
    """(1, 64, 64, 3): the face on which the landmarks are found."""
    return np.ascontiguousarray(draw_face(0, 7, size=64).image[..., ::-1])[None]


def told(sweep: Sweep) -> dict:
    """What this program says of the study, and what its best network finds on a drawn face."""
    read = load(sweep.folder)
    best = read.config.trial_folder(read.best.number) / "best.pt"
    return {
        "home": str(sweep.home),
        "best": read.best.number,
        "trials": {r.number: [r.state.value, r.best_nme, r.epochs, r.params, r.seed] for r in read.records.values()},
        "history": {
            n: {epoch: row["val/nme"] for epoch, row in rows.items()} for n, rows in read.history_by_trial.items()
        },
        "findings": [kind.about for kind in vars(read.findings).values() if kind is not None],
        "best_config": yaml.safe_load((sweep.folder / "best.yaml").read_text()),
        "landmarks": LandmarkPredictor(best).predict(drawn())[0].tolist(),
    }


def pack(home: Path) -> None:
    for path in home.rglob("*.db"):
        with sqlite3.connect(path) as database:
            database.execute("VACUUM")
    with tarfile.open(HOME / "study.tar.gz", "w:gz", compresslevel=9) as archive:
        archive.add(home, arcname="study", filter=wanted)


def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return None if any(word in member.name for word in UNUSED) else member


if __name__ == "__main__":
    main()

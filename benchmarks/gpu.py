"""One GPU: what it computes in and why, steps against bare loops, faces, two trials on it, memory, two processes.

`python -m benchmarks.gpu NAME SETTINGS` measures one part in a process of its own and prints it as JSON; a part that
fails is told in its row, and the others go on.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.measuring import Table
from sweep.storage.sweep_folder import EVENTS_FILE
from trainer import engine
from trainer.config import TrainConfig
from trainer.cores import available_cores
from trainer.data.batches import training_batches
from trainer.data.crop_cache import load_split
from trainer.form_speed import resolve, speeds_here
from trainer.forms import form_of
from trainer.run_state import start_run
from trainer.runtime.device import autocast, lay_out
from trainer.runtime.process import release_memory

Settings = dict[str, str]
Part = Callable[[Settings], dict[str, Any]]
SETTINGS: Settings = {
    "model.backbone": "resnet50",
    "data.image_size": "256",
    "data.train_faces": "640",
    "data.val_faces": "64",
    "data.workers": str(min(16, available_cores())),
    "optim.batch_size": "64",
    "optim.epochs": "3",
    "run.device": "cuda",
}
_ALL, _PART = 450.0, 150.0  # seconds that all parts and that one may take
_SECONDS, _WARMUP = 4.0, 3  # of timed steps, and how many go before
_KEEPS_UP = 0.95  # of the bare loop's speed
_RUNS = 3  # after one another in a process, for its memory
_BARE = "bare loop, "


def measure(settings: Settings = SETTINGS) -> Table:
    """Runs the parts in their order, as far as there is time; what takes longest comes last."""
    if settings["run.device"] == "cuda" and not torch.cuda.is_available():
        raise SystemExit("benchmark gpu: torch finds no CUDA GPU on this machine")
    began = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    for name in PARTS:
        left = began + _ALL - time.monotonic()
        late = {"measured": "-", "judged": "left out: no time was left"}
        found[name] = _alone(name, settings, min(left, _PART)) if left > 0 else late
    bare = [part.get("rate", 0.0) for name, part in found.items() if name.startswith(_BARE) and "compiled" not in name]
    fastest = max(bare, default=0.0)
    rows = [[name, *_cells(name, part, fastest)] for name, part in found.items()]
    network = f"{settings['model.backbone']} at {settings['data.image_size']} px, batch {settings['optim.batch_size']}"
    device = torch.cuda.get_device_name() if settings["run.device"] == "cuda" else settings["run.device"]
    return Table(
        "One GPU",
        ["what", "measured", "judged"],
        rows,
        f"{device}; {network}, synthetic faces, {settings['data.workers']} threads prepare them. Bare loop: one fixed "
        "batch; forward, mean, backward, step of the trainer's optimizer. Trainer: augmentation, STAR loss and checks. "
        f"Each in a process of its own, {_SECONDS:g} s after {_WARMUP} steps; "
        f"{time.monotonic() - began:.0f} s for all of it.",
    )


def _alone(name: str, settings: Settings, seconds: float) -> dict[str, Any]:
    """What a part found in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.gpu", name, json.dumps(settings)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"measured": "-", "judged": f"not done in {seconds:.0f} s"}
    if done.returncode:
        return {"measured": "-", "judged": "failed: " + (done.stderr.strip().splitlines() or ["without a word"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _cells(name: str, part: dict[str, Any], fastest: float) -> list[str]:
    if "rate" not in part:
        return [part["measured"], part["judged"]]
    share = part["rate"] / fastest if fastest else float("nan")
    judged = f"{share:.2f} of the fastest bare loop, not compiled"
    if not name.startswith(_BARE):
        judged += ": keeps up" if share >= _KEEPS_UP else ": does not keep up"
    return [f"{part['rate']:.0f} images/s", judged]


def _chosen(settings: Settings) -> dict[str, Any]:
    config = TrainConfig.load(None, settings).with_threads()
    return {"measured": str(form_of(resolve(config))), "judged": speeds_here(config).source}


def _bare_loop(precision: str, settings: Settings) -> dict[str, Any]:
    """TF32 is float32 whose products are of 19 bits; float32 here means all of its bits."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "TF32"
    form = {"run.precision": "float32" if precision == "TF32" else precision, "run.channels_last": "true"}
    config = TrainConfig.load(None, settings | form).with_threads()
    run = start_run(config)
    run.model.train()
    size, batch = config.data.image_size, config.optim.batch_size
    pictures = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=run.device)

    def step() -> int:
        with autocast(config, run.device):
            output = run.network(lay_out(pictures, config))
        engine.backward(run, output.float().mean())
        engine.optimizer_step(run, config.optim.lr)
        return batch

    return {"rate": _rate(step, run.device)}


def _trainer(settings: Settings) -> dict[str, Any]:
    config = resolve(TrainConfig.load(None, settings))
    run, split = start_run(config), load_split(config.data, "train")
    epochs = itertools.count(1)
    return {"rate": _rate(lambda: engine.train_epoch(run, split, next(epochs))[2], run.device, warmup=1)}


def _faces(settings: Settings) -> dict[str, Any]:
    """Batches as the trainer takes them, without a network."""
    config = resolve(TrainConfig.load(None, settings))
    split = load_split(config.data, "train")
    batches = (batch for epoch in itertools.count(1) for batch in training_batches(split, config, epoch))
    return {"rate": _rate(lambda: len(next(batches).pictures), torch.device("cpu"))}


def _rate(step: Callable[[], int], device: torch.device, warmup: int = _WARMUP) -> float:
    """Images a second."""
    for _ in range(warmup):
        step()
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began, images = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        images += step()
    wait()
    return images / (time.perf_counter() - began)


def _two_trials(settings: Settings) -> dict[str, Any]:
    """Two trials side by side, each asking for half of the GPU, against one that has it alone."""
    on_gpu = settings["run.device"] == "cuda"
    alone = _images_per_second(settings, 1, {"gpus": 1} if on_gpu else {"cpus": 1})
    both = _images_per_second(settings, 2, {"gpus": 0.5} if on_gpu else {"cpus": 1})
    return {
        "measured": f"{sum(both):.0f} images/s together ({', '.join(f'{rate:.0f}' for rate in both)})",
        "judged": f"{sum(both) / sum(alone):.2f} of one trial alone ({sum(alone):.0f})",
    }


def _images_per_second(settings: Settings, trials: int, resources: dict[str, float]) -> list[float]:
    """Of each trial of a sweep that has room for all of them, in its last epoch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "halves.yaml"
        tree = {
            "name": "halves",
            "trials": trials,
            "slots": trials,
            "output": folder,
            "report": False,
            "space": {"optim.lr": {"log_uniform": [1e-4, 1e-3]}},
            "sampler": {"name": "random"},
            "pruner": {"name": "none"},
            "repeats": {"share": 0},
            "resources": resources,
        }
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        words = [f"--train.{key}={value}" for key, value in settings.items()]
        subprocess.run([sys.executable, "-m", "sweep.run", str(path), *words], check=True, stdout=subprocess.DEVNULL)
        log = (Path(folder) / "halves" / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
    reports = [event for event in map(json.loads, log) if event["event"] == "report"]
    return list({event["trial"]: event["metrics"]["images_per_second"] for event in reports}.values())


def _memory(settings: Settings) -> dict[str, Any]:
    """Runs after one another in one process, as the trials of a worker are."""
    peaks, left = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(_RUNS):
            output = {"run.output": f"{folder}/{number}", "optim.epochs": "1"}
            engine.train(
                TrainConfig.load(None, settings | output), report=lambda r: peaks.append(r.metrics["memory_gb"])
            )
            release_memory()
            left.append(torch.cuda.memory_reserved() / 1e9)
    grown = max(peaks) - peaks[0]
    first, rest = (", ".join(f"{value:.2f}" for value in values) for values in (peaks, left))
    return {
        "measured": f"peaks {first} GB; kept after each {rest} GB",
        "judged": f"the last ones take {grown:.2f} GB more than the first" if grown > 0.01 * peaks[0] else "given back",
    }


def _two_processes(settings: Settings) -> dict[str, Any]:
    """One run by two processes, on two GPUs where there are two; on one, NCCL decides whether it lets both on."""
    if settings["run.device"] == "cuda" and not torch.distributed.is_nccl_available():
        return {"measured": "-", "judged": "this torch has no NCCL"}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--{key}={value}" for key, value in settings.items()]
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "trainer.train"]
        command = [sys.executable, *launch, *words, f"--run.output={folder}/run"]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NCCL_DEBUG": "WARN"})
        if done.returncode:
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
            why = next((line for line in lines if "uplicate GPU" in line), lines[-1] if lines else "without a word")
            return {"measured": "-", "judged": f"not possible here: {why}"}
        rows = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    devices = min(2, torch.cuda.device_count()) or "no"
    return {"measured": f"{json.loads(rows[-1])['images_per_second']:.0f} images/s", "judged": f"on {devices} GPUs"}


def _with(changes: Settings, part: Part, settings: Settings) -> dict[str, Any]:
    return part(settings | changes)


_COMPILED, _ON_GPU = {"run.compile": "true"}, {"data.augment_on": "device"}
PARTS: dict[str, Part] = {
    "computes in": _chosen,
    **{f"{_BARE}{name}": partial(_bare_loop, name) for name in ("float32", "TF32", "bfloat16", "float16")},
    "trainer, faces augmented on the CPU": _trainer,
    "trainer, faces augmented on the GPU": partial(_with, _ON_GPU, _trainer),
    "faces alone, augmented on the CPU": _faces,
    "faces alone, to be augmented on the GPU": partial(_with, _ON_GPU, _faces),
    "memory of three runs in one process": _memory,
    "two trials on half a GPU each": _two_trials,
    "one run by two processes": _two_processes,
    "trainer, compiled": partial(_with, _COMPILED | _ON_GPU, _trainer),
    **{
        f"{_BARE}{name}, compiled": partial(_with, _COMPILED, partial(_bare_loop, name))
        for name in ("bfloat16", "TF32", "float32")
    },
}


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](json.loads(sys.argv[2]))))

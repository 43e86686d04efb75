"""What a whole sweep costs beside its training: the demo, from the command to the last step."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Table, milliseconds
from sweep.core.config_file import DEMO, load_sweep
from sweep.storage.sweep_folder import EVENTS_FILE
from trainer import checkpoint, engine
from trainer.config import TrainConfig
from trainer.data.crop_cache import load_split

Event = dict[str, Any]


def measure() -> Table:
    """Runs the demo once and reads its event log, then one of its trials alone to time the checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_sweep(DEMO, {"output": folder})
        for split in ("train", "val"):
            load_split(config.train.data, split)  # a warm start is what is measured
        launched, cpu, events = _run(Path(folder), config.folder / EVENTS_FILE)
        rows = _rows(launched, cpu, events, config.trials or 0)
        rows += _disk_rows(config.folder / "trials")
        share = _checkpoint_share(config.train.replace({"run.output": str(config.folder / "alone")}))
    rows.append(["checkpoints, of a trial's time", f"{share:.1%}", "2 %"])
    return Table(
        "The demo sweep",
        ["what", "measured", "at most (busy: at least)"],
        rows,
        f"{config.trials} trials, crops cached, one run; trial and epoch times as the event log has them.",
    )


def _run(output: Path, log: Path) -> tuple[float, float, list[Event]]:
    """Runs the demo; gives when it was launched, the driver's seconds of CPU from first to last report, the events."""
    launched = time.time()
    command = [sys.executable, "-m", "sweep.run", "--output", str(output)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    first = last = 0.0
    while driver.poll() is None:
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        if "sweep_ended" not in text and "report" in text:
            last = _cpu_seconds(driver.pid)
            first = first or last
        time.sleep(0.5)
    if driver.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {driver.returncode}")
    return launched, last - first, [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads, on Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rows(launched: float, cpu: float, events: list[Event], trials: int) -> list[list[str]]:
    reports = [e for e in events if e["event"] == "report"]
    seconds = [e["metrics"]["epoch_seconds"] for e in reports]
    begins = [e["time"] - s for e, s in zip(reports, seconds, strict=True)]  # of the epoch's first step
    first_steps = {e["trial"]: begin for e, begin in zip(reports, begins, strict=True) if e["step"] == 1}
    ends = sorted(e["time"] for e in events if e["event"] == "trial_ended")
    slots = len([begin for begin in first_steps.values() if begin < ends[0]])
    # each end frees a slot for the next trial, in this order
    gaps = [begin - end for begin, end in zip(sorted(first_steps.values())[slots:], ends, strict=False)]
    first, last = min(begins), ends[-1]
    # the last trial of one slot ends before that of the other: no next trial was asked for
    tail = (slots * last - sum(ends[-slots:])) / (slots * (last - first))
    busy = sum(seconds) / (slots * (last - first))
    return [
        ["from the command to the first step", f"{first - launched:.1f} s", "10 s"],
        ["between two trials in a slot, median", milliseconds(statistics.median(gaps)), "200 ms"],
        ["between two trials in a slot, longest", milliseconds(max(gaps)), ""],
        ["slots busy from the first to the last step", f"{busy:.1%}", "95 %"],
        ["idle because no trials were left", f"{tail:.1%}", ""],
        ["busy while trials were left", f"{busy / (1 - tail):.1%}", ""],
        ["driver, of a core", f"{cpu / (reports[-1]['time'] - reports[0]['time']):.1%}", "5 %"],
        ["all, from the command to the last step", f"{last - launched:.0f} s for {trials} trials", ""],
    ]


def _disk_rows(folder: Path) -> list[list[str]]:
    kept = {path.parent for path in folder.glob("*/best.pt")}
    sizes = {path: sum(file.stat().st_size for file in path.rglob("*")) for path in sorted(folder.iterdir())}
    small = [size for path, size in sizes.items() if path not in kept]
    large = [size for path, size in sizes.items() if path in kept]
    return [
        ["disk of a finished trial", f"{max(small) / 1e3:.0f} kB", ""],
        [f"disk of each of the best {len(kept)}, with its weights", f"{max(large) / 1e6:.0f} MB", ""],
    ]


def _checkpoint_share(config: TrainConfig) -> float:
    """Trains a config; the share of its time that went into checkpoints."""
    save, spent = checkpoint.save, 0.0

    def timed(state: dict[str, Any], path: Path) -> None:
        nonlocal spent
        started = time.perf_counter()
        save(state, path)
        spent += time.perf_counter() - started

    checkpoint.save = timed
    try:
        started = time.perf_counter()
        engine.train(config)
        return spent / (time.perf_counter() - started)
    finally:
        checkpoint.save = save

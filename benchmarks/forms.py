"""Precision and memory layout: the trainer, which chooses them, against bare loops in all forms that there are."""

from __future__ import annotations

import json
import sys
from functools import partial

import torch

from benchmarks.measuring import Table, medians_in_turn, run_alone
from benchmarks.step import ROUNDS, SETUPS, time_bare_loop, time_trainer
from trainer.config import TrainConfig
from trainer.form_speed import resolve, speeds_here
from trainer.forms import ON_CPU, FormSpeeds, choose, form_of, in_form

SETS = {"as it is": {}, "held to AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
_HOPELESS = 3.0  # times slower than the fastest, as the trainer measures it: not worth the minutes
_BARE = {str(form): form for form in ON_CPU}


def measure() -> Table:
    """Every form on both instruction sets, in processes of their own, in turn."""
    rows = []
    for name, switches in SETS.items():
        for setup in SETUPS:
            asked = json.loads(run_alone("benchmarks.forms", setup, "speeds", **switches))
            speeds, chosen = FormSpeeds.from_tree(asked["speeds"]), asked["chosen"]
            timed = [text for text, form in _BARE.items() if speeds.factor(form) <= _HOPELESS]
            variants = {text: partial(_time, setup, text, switches) for text in ("trainer", *timed)}
            median = medians_in_turn(variants, ROUNDS)
            fastest = max(median[text] for text in timed)
            for text, form in _BARE.items():
                rate = median.get(text, fastest / speeds.factor(form))
                loop = "bare loop" if text in median else f"not timed, {speeds.factor(form):.0f} times slower"
                rows.append([name, setup, text, loop, f"{rate:.1f}", f"{rate / fastest:.2f}"])
            rate = median["trainer"]
            rows.append([name, setup, chosen, "trainer, chosen", f"{rate:.1f}", f"**{rate / fastest:.2f}**"])
    return Table(
        "Precision and memory layout",
        ["CPU", "network", "form", "loop", "images/s", "of the fastest bare loop"],
        rows,
        "Bare loop: one fixed batch, forward, mean, backward, step. Trainer: run.precision and run.channels_last auto, "
        "with augmentation, STAR loss and checks; demand: at least 0.97. All cores, synthetic faces; "
        f"{ROUNDS} processes each, in turn, median. The CPU itself: {torch.backends.cpu.get_cpu_capability()}"
        f"{', bfloat16 units' if _has_bfloat16() else ', no bfloat16 units'}.",
    )


def _has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _time(setup: str, variant: str, switches: dict[str, str]) -> float:
    return float(run_alone("benchmarks.forms", setup, variant, **switches))


def _answer(setup: str, variant: str) -> str:
    config = TrainConfig.load(None, SETUPS[setup]).with_threads()
    if variant == "speeds":
        speeds = speeds_here(config)
        return json.dumps({"speeds": speeds.tree(), "chosen": str(form_of(choose(config, {setup: speeds})))})
    if variant == "trainer":
        return str(time_trainer(resolve(config)))
    return str(time_bare_loop(in_form(config, _BARE[variant])))


if __name__ == "__main__":
    print(_answer(*sys.argv[1:]))

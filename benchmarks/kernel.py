"""The STAR loss from logits to gradient: against the published form, and against the memory traffic it cannot avoid."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import profile

from benchmarks.measuring import Table, medians_in_turn, milliseconds, run_alone, time_in_turn
from trainer.config import TrainConfig
from trainer.cores import available_cores
from trainer.losses import smooth_l1, star_loss
from trainer.runtime.process import prepare_process

SHAPE = (16, 98, 64, 64)  # B, K, H, W
ROUNDS, STEPS = 3, 15
Loss = Callable[[Tensor, Tensor], Tensor]


def measure() -> Table:
    """Times forward and backward, softmax included, in processes of their own, in turn."""
    found = medians_in_turn({name: partial(_time_alone, name) for name in VARIANTS}, ROUNDS)
    base, floor = found["published form"][0], found["floor: read the logits, write the gradient"][0]
    rows = [
        [name, milliseconds(seconds), f"{base / seconds:.1f}", f"{seconds / floor:.1f}", f"{maps:.2f}"]
        for name, (seconds, maps) in found.items()
    ]
    shape = " x ".join(map(str, SHAPE))
    return Table(
        "STAR loss, forward and backward",
        ["form", "median", "times faster", "of the floor", "memory, in tensors of the logits' size"],
        rows,
        f"Logits {shape} float32, {available_cores()} threads; {ROUNDS} processes each, in turn, medians of "
        f"{STEPS} steps. With trainer memory: freed memory stays in the process, as the trainer has it.",
    )


def _time_alone(name: str) -> tuple[float, float]:
    seconds, maps = map(float, run_alone("benchmarks.kernel", name).split())
    return seconds, maps


def time_variant(name: str) -> str:
    """Median seconds of a step, and the memory it takes beside the logits, in tensors of their size."""
    loss, prepared = VARIANTS[name]
    if prepared:
        prepare_process(TrainConfig().with_threads())
    logits, target = landmark_logits(SHAPE, spread=0.1)
    out = torch.empty_like(logits)
    step = (lambda: torch.neg(logits, out=out)) if loss is None else _step(loss, logits, target)
    seconds = time_in_turn({name: step}, rounds=STEPS)[name]
    return f"{seconds} {1 if loss is None else _peak_bytes(step) / logits.nbytes}"


def landmark_logits(shape: tuple[int, int, int, int], spread: float) -> tuple[Tensor, Tensor]:
    """Logits of Gaussian heatmaps with noise at random places, and targets near them; (B, K, H, W), (B, K, 2)."""
    torch.manual_seed(0)
    batch, landmarks, height, width = shape
    centre = torch.rand(batch, landmarks, 2) * 1.6 - 0.8
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    squared = (x - centre[..., 0, None, None]) ** 2 + (y - centre[..., 1, None, None]) ** 2
    logits = torch.randn(shape) - squared / (2 * spread**2)
    return logits, centre + 0.05 * torch.randn(batch, landmarks, 2)


def published_star(logits: Tensor, target: Tensor) -> Tensor:
    """STAR with weight 1 as the formula reads: dense coordinate grids, a batched product, an eigensolver."""
    batch, landmarks, height, width = logits.shape
    p = torch.softmax(logits.flatten(2), -1)  # (B, K, HW)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    grid = torch.stack([x, y], -1).view(1, 1, height * width, 2)
    mean = (p[..., None] * grid).sum(2)
    centred = (grid - mean[:, :, None]).flatten(0, 1)  # (BK, HW, 2)
    v1, v2 = p.sum(-1) + 1e-5, p.square().sum(-1) + 1e-5
    products = torch.bmm((centred * p.flatten(0, 1)[..., None]).transpose(1, 2), centred)
    covariance = products.view(batch, landmarks, 2, 2) / (v1 - v2 / v1)[..., None, None]
    values, vectors = torch.linalg.eigh(covariance)
    error = torch.einsum("bkij,bki->bkj", vectors, target - mean)
    along = smooth_l1(error.square().clamp_min(1e-6).sqrt()) / (values + 1e-5).sqrt()
    return (along.sum(-1) + values.abs().sum(-1)).mean()


VARIANTS: dict[str, tuple[Loss | None, bool]] = {  # loss, and whether the process is prepared like the trainer's
    "published form": (published_star, False),
    "published form, with trainer memory": (published_star, True),
    "starsweep": (star_loss, True),
    "floor: read the logits, write the gradient": (None, True),
}


def _step(loss: Loss, logits: Tensor, target: Tensor) -> Callable[[], object]:
    def step() -> None:
        leaf = logits.detach().requires_grad_()
        loss(leaf, target).backward()

    return step


def _peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that the function holds at a time, from the allocations the profiler saw."""
    with profile(profile_memory=True) as profiler:
        function()
    changes = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


if __name__ == "__main__":
    print(time_variant(sys.argv[1]))

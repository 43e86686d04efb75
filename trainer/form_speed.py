"""How fast this machine trains a network in each form, from a few seconds of its real steps.

All forms are tried on small pictures first, where one that is emulated costs little time; those that are near the best
are then timed in turns at the config's size, on as many pictures as the time allows.
"""

from __future__ import annotations

import copy
import json
import sys
import time

import torch
from torch import nn

from trainer.config import TrainConfig
from trainer.errors import ConfigError
from trainer.forms import ON_CPU, Form, FormSpeeds, choose, form_of, in_form, is_open, recall, remember, slow_warning
from trainer.model import LandmarkNet
from trainer.optim import build_optimizer
from trainer.runtime.device import autocast, lay_out, select_device, to_device
from trainer.runtime.process import prepare_process

_SECONDS = 3.5  # for timing at the config's size; the rest of five seconds is for what comes before
_ROUNDS = 7  # are enough
_SMALL = 64  # pixels
_NEAR = 1.6  # times slower than the best on small pictures: what is slower than this will not be the best on large ones
_EMULATED = 3.0  # times slower in its first step: needs no second one, nor the other layout
_STEP = 0.3  # seconds that a timed step should take at most
_WAITED = 1.3  # times longer than it worked: others were at work, too


def resolve(config: TrainConfig) -> TrainConfig:
    """Returns the config with all that depends on this machine written down: threads, precision and memory layout.

    Raises:
        ConfigError: this machine has no such device.
    """
    config = config.with_threads()
    return choose(config, {"this machine": speeds_here(config)}) if is_open(config) else config


def speeds_here(config: TrainConfig) -> FormSpeeds:
    """How fast the config's device trains its network in each form: measured on CPUs or remembered, known of GPUs.

    Args:
        config: with its number of threads; neither weights nor faces are read.

    Raises:
        ConfigError: this machine has no such device.
    """
    device = select_device(config.run.device)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return speeds_of_gpu(torch.cuda.get_device_name(device), major, minor, native)
    if device.type == "mps":
        return FormSpeeds({Form("float32", False): 1.0}, "float32 NCHW is what is safe on MPS", measured=False)
    if (known := recall(config)) is not None:
        return known
    found, quiet = _measure(config)
    if quiet:
        remember(config, found)
    return found


def slow_here(config: TrainConfig) -> str | None:
    """A line about weights whose half precision this machine's CPU emulates, which takes many times as long."""
    if form_of(config).precision == "float32" or select_device(config.run.device).type != "cpu":
        return None
    return slow_warning(config, speeds_here(config))


def speeds_of_gpu(name: str, major: int, minor: int, bfloat16: bool) -> FormSpeeds:
    """What is fast on a GPU by its compute capability: bfloat16 from 8.0 on, before that float16 on tensor cores, which
    want NHWC (7.0 and 7.5), before that neither."""
    gpu = f"{name}, compute capability {major}.{minor}"
    if bfloat16:
        order, why = ["bfloat16", "float16", "float32"], "bfloat16 in hardware"
    elif major >= 7:
        order, why = ["float16", "float32"], "no bfloat16 in hardware, float16 with loss scaling on tensor cores"
    else:
        return FormSpeeds({Form("float32", False): 1.0, Form("float32", True): 0.9}, f"{gpu}: no tensor cores", False)
    ranks = [Form(precision, last) for precision in order for last in (True, False)]
    return FormSpeeds({form: 1.0 / rank for rank, form in enumerate(ranks, 1)}, f"{gpu}: {why}", measured=False)


def main() -> None:
    """`python -m trainer.form_speed`: the tree of a config in, `FormSpeeds.tree` out; for processes without torch."""
    try:
        found = speeds_here(TrainConfig.from_tree(json.load(sys.stdin))).tree()
    except ConfigError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


def _measure(config: TrainConfig) -> tuple[FormSpeeds, bool]:
    """The speeds, and whether the machine was quiet enough for them to hold at other times."""
    prepare_process(config)
    # Only this thread's work is told from its waiting: the others of a network wait for each other without a rest.
    began, worked = time.perf_counter(), time.thread_time()
    size, deadline = config.data.image_size, began + _SECONDS
    networks = _Networks(config)
    small = min(_SMALL, size)
    rough = networks.roughly(small, deadline)
    best = min(rough.values())
    near = [form for form, seconds in rough.items() if seconds <= _NEAR * best]
    fewest = 2 if size < _SMALL else 1  # batch norm needs more than one value a channel
    batch = max(fewest, min(config.optim.batch_size, int(_STEP / (best * (size / small) ** 2))))
    steps: dict[Form, list[float]] = {form: [] for form in near}
    for turn in range(1 + _ROUNDS):  # the first is for the libraries to get ready
        for form in near:
            if turn == 0 or time.perf_counter() < deadline:
                steps[form].append(networks.seconds(form, batch, size))
    # a step is never quicker than it is, but others on the machine may make it slower
    exact = {form: min(times[1:] or times) / batch for form, times in steps.items()}
    fastest = min(exact, key=lambda form: exact[form])
    rates = {form: 1 / (exact[form] if form in exact else exact[fastest] * rough[form] / best) for form in rough}
    emulated = {form: rates[other] for form in ON_CPU if form not in rates and (other := _twin(form)) in rates}
    threads = f"{config.run.threads} thread{'s' * (config.run.threads != 1)}"
    quiet = time.perf_counter() - began < _WAITED * (time.thread_time() - worked)
    found = f"measured here with {threads}, {size} px{'' if quiet else ', on a busy machine'}"
    return FormSpeeds(rates | emulated, found), quiet


def _twin(form: Form) -> Form:
    """The other layout."""
    return Form(form.precision, not form.channels_last)


class _Networks:
    """The network of a config in both layouts, with random weights and an optimizer, for steps that are timed."""

    def __init__(self, config: TrainConfig) -> None:
        self._configs = {form: in_form(config, form) for form in ON_CPU}
        self._clock = time.process_time if (config.run.threads or 1) == 1 else time.perf_counter
        with torch.random.fork_rng(devices=[]):
            network = LandmarkNet(config.model, config.data.landmarks.count).train()
        self._networks: dict[bool, nn.Module] = {}
        self._optimizers: dict[bool, torch.optim.Optimizer] = {}
        for form in (Form("float32", False), Form("float32", True)):
            placed = to_device(copy.deepcopy(network), self._configs[form])
            self._networks[form.channels_last] = placed
            self._optimizers[form.channels_last] = build_optimizer(placed, config.optim)

    def roughly(self, size: int, deadline: float) -> dict[Form, float]:
        """Seconds a picture of this size; without the second layout of a precision that is emulated. After the
        deadline, one step of each form is enough."""
        found: dict[Form, float] = {}
        for form in ON_CPU:
            best = min(found.values(), default=float("inf"))
            if found.get(_twin(form), 0.0) > _EMULATED * best:
                continue
            times = [self.seconds(form, 2, size) / 2]
            if (times[0] <= _EMULATED * best or not found) and time.perf_counter() < deadline:
                times = [self.seconds(form, 2, size) / 2 for _ in range(3)]
            found[form] = min(times)
        return found

    def seconds(self, form: Form, batch: int, size: int) -> float:
        """Of one step. On one thread it is CPU time, which others on the machine hardly change."""
        config, network = self._configs[form], self._networks[form.channels_last]
        optimizer = self._optimizers[form.channels_last]
        shape, random = (batch, 3, size, size), torch.Generator().manual_seed(0)
        pictures = lay_out(torch.randint(0, 256, shape, dtype=torch.uint8, generator=random), config)
        started = self._clock()
        with autocast(config, pictures.device):
            output = network(pictures)
        output.float().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return self._clock() - started


if __name__ == "__main__":
    main()

"""In which form a network is computed: its precision and memory layout, and which form is fastest on a machine.

What is known of a machine is kept in the cache folder, so that it is measured once (see `trainer.form_speed`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer.atomic_file import replacing
from trainer.config import TrainConfig
from trainer.errors import ConfigError

AUTO = "auto"
SLOW = 1.5  # times slower than the fastest form: worth a warning where it was asked for, too slow to be chosen
_FORMAT = 1  # of the files in the cache
_SWITCHES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE")


@dataclass(frozen=True)
class Form:
    """How a network is computed: `precision` as torch names it, and the memory layout NHWC or NCHW."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision} {'NHWC' if self.channels_last else 'NCHW'}"


FORMS = tuple(Form(precision, last) for precision in ("float32", "bfloat16", "float16") for last in (False, True))
ON_CPU = tuple(form for form in FORMS if form.precision != "float16")


@dataclass(frozen=True)
class FormSpeeds:
    """How fast a machine trains a network in each form.

    Attributes:
        rates: training images a second; where they are not measured, in proportion only.
        source: where that is known from, for a person.
        measured: whether the rates are images a second.
    """

    rates: Mapping[Form, float]
    source: str
    measured: bool = True

    def factor(self, form: Form) -> float:
        """How many times slower a form is than the fastest; infinite where it is not known how fast it is."""
        rate = self.rates.get(form, 0.0)
        return max(self.rates.values()) / rate if rate else float("inf")

    @property
    def ordered(self) -> list[Form]:
        """The forms, the fastest first."""
        return sorted(self.rates, key=self.factor)

    def text(self) -> str:
        """For a person: the fastest first."""
        rates = ", ".join(f"{form} {self.rates[form]:.1f}" for form in self.ordered)
        return f"{rates} images/s ({self.source})" if self.measured else self.source

    def tree(self) -> dict[str, Any]:
        """As JSON holds it."""
        rates = [[form.precision, form.channels_last, rate] for form, rate in self.rates.items()]
        return {"format": _FORMAT, "rates": rates, "source": self.source, "measured": self.measured}

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> FormSpeeds:
        """What `tree` gave; raises ValueError, KeyError or TypeError for anything else."""
        if tree["format"] != _FORMAT:
            raise ValueError(f"format {tree['format']}")
        rates = {Form(str(precision), bool(last)): float(rate) for precision, last, rate in tree["rates"]}
        return cls(rates, str(tree["source"]), bool(tree["measured"]))


def form_of(config: TrainConfig) -> Form:
    """The form of a config in which nothing is left open."""
    assert not is_open(config), "precision and layout are chosen before"
    return Form(config.run.precision, config.run.channels_last is True)


def is_open(config: TrainConfig) -> bool:
    """Whether precision or layout is to be chosen by speed."""
    return AUTO in (config.run.precision, config.run.channels_last)


def allowed(config: TrainConfig) -> list[Form]:
    """The forms that agree with what a config says."""
    precision, last = config.run.precision, config.run.channels_last
    return [form for form in FORMS if precision in (AUTO, form.precision) and last in (AUTO, form.channels_last)]


def choose(config: TrainConfig, machines: Mapping[str, FormSpeeds]) -> TrainConfig:
    """Returns the config with precision and layout written down: those that lose least on the machine they suit least.

    Args:
        config: what it says itself is obeyed.
        machines: the speeds of each machine that trains, by its name.

    Raises:
        ConfigError: whatever precision were chosen, it is more than `SLOW` times slower on one of the machines than the
            one that suits it best.
    """
    worst = {form: max(speeds.factor(form) for speeds in machines.values()) for form in allowed(config)}
    form = min(worst, key=lambda f: worst[f])
    if config.run.precision == AUTO and len(machines) > 1 and worst[form] > SLOW:
        suits = "; ".join(f"{name}: {speeds.ordered[0]}" for name, speeds in machines.items())
        raise ConfigError(
            f"run.precision = 'auto': no precision is fast on all machines ({suits}): set it, or leave some out"
        )
    return in_form(config, form)


def in_form(config: TrainConfig, form: Form) -> TrainConfig:
    """Returns the config, computed in this form whatever it says itself."""
    return config.replace({"run.precision": form.precision, "run.channels_last": form.channels_last})


def adopt(config: TrainConfig, earlier: TrainConfig) -> TrainConfig:
    """Returns the config with what it leaves open as an earlier one has it, with which it shall share its numbers."""
    left_open = [name for name in ("precision", "channels_last") if getattr(config.run, name) == AUTO]
    return config.replace({f"run.{name}": getattr(earlier.run, name) for name in left_open})


def slow_warning(config: TrainConfig, speeds: FormSpeeds) -> str | None:
    """A line about a config whose form is more than `SLOW` times slower here than the fastest; else None."""
    form = form_of(config)
    factor, best = speeds.factor(form), speeds.ordered[0]
    if not speeds.measured or factor <= SLOW:
        return None
    if factor == float("inf"):
        return f"{form} is made for GPUs; the fastest here is {best}, which run.precision auto takes"
    return f"{form} is {factor:.1f} times slower here than {best}, which run.precision and run.channels_last auto take"


def epoch_pictures(config: TrainConfig, training: int, validation: int) -> float:
    """What an epoch costs, in training pictures: a validation picture is a forward pass, a third of that, or two."""
    return training + validation * (2 if config.run.flip_test else 1) / 3


def recall(config: TrainConfig) -> FormSpeeds | None:
    """What was measured before, on such a machine, for the network of this config; None if nothing was."""
    try:
        return FormSpeeds.from_tree(json.loads(_file(config).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember(config: TrainConfig, speeds: FormSpeeds) -> None:
    """Keeps what was measured; a cache folder that cannot be written to costs another measurement, nothing else."""
    path = _file(config)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(speeds.tree()), encoding="utf-8")


def _file(config: TrainConfig) -> Path:
    """By all that decides the speeds: processor and what it is told to use, network, size, batch, threads, versions."""
    decisive = [
        _processor(),
        {name: os.environ.get(name) for name in _SWITCHES},
        config.model.model_dump(mode="json", exclude={"pretrained"}),
        config.data.landmarks.count,
        config.data.image_size,
        config.optim.batch_size,
        [config.run.device, Path("/dev/nvidia0").exists(), os.environ.get("CUDA_VISIBLE_DEVICES")],
        config.run.threads,
        [version(name) for name in ("torch", "torchvision")],
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return config.data.cache_folder / "forms" / f"{digest}.json"


def _processor() -> str:
    """The processor's model and what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU ")))

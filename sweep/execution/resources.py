"""What a trial asks for, held against what a machine has."""

from __future__ import annotations

from sweep.config import ResourcesConfig, SweepConfig
from trainer.config import available_cores
from trainer.settings import ConfigError


def fitting(resources: ResourcesConfig, cpus: float, gpus: float) -> int:
    """How many workers of trials fit on a machine with so many CPUs and GPUs."""
    asked = [(resources.cpus, cpus), (resources.gpus, gpus)]
    return min((int(has / wants + 1e-9) for wants, has in asked if wants > 0), default=max(1, int(cpus)))


def check_local(config: SweepConfig) -> int:
    """How many trials fit on this machine at once (at most `slots`), before Ray is started; 0 means a cluster decides.

    Raises:
        ConfigError: a trial asks for more than this machine has.
    """
    if config.ray_address is not None:
        return 0
    gpus = _count_gpus() if config.resources.gpus else 0
    return limit_slots(config, [(available_cores(), gpus)])


def limit_slots(config: SweepConfig, machines: list[tuple[float, float]]) -> int:
    """How many trials fit at once on machines of so many (CPUs, GPUs), at most `slots`.

    Raises:
        ConfigError: a trial asks for more than any machine has.
    """
    workers = config.resources.workers
    fit = sum(fitting(config.resources, cpus, gpus) for cpus, gpus in machines) // workers
    if fit == 0:
        have = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in machines) or "none"
        raise ConfigError(
            f"resources.cpus = {config.resources.cpus:g}, resources.gpus = {config.resources.gpus:g}: "
            + (f"{workers} workers must fit" if workers > 1 else "a trial must fit on one machine")
            + f", and there is: {have}"
        )
    return min(fit, config.slots or fit)


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()

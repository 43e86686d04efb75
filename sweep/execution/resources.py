"""How many trials fit on machines: the resources of a trial against those of a machine."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable

from sweep.core.sections import ExecutionConfig, ResourcesConfig
from trainer.cores import available_cores
from trainer.errors import ConfigError

logger = logging.getLogger(__name__)
_CACHE_SECONDS = 2.0  # of a count of the machines
_CROWDED = 1.25  # times its cores: load and trials together that are worth a word


def fitting(resources: ResourcesConfig, cpus: float, gpus: float) -> int:
    """How many workers fit on a machine with this many CPUs and GPUs."""
    asked = [(resources.cpus, cpus), (resources.gpus, gpus)]
    return min((int(has / wants + 1e-9) for wants, has in asked if wants > 0), default=max(1, int(cpus)))


def check_local(config: ExecutionConfig) -> int:
    """How many trials fit on this machine at once (at most `slots`), before Ray is started; 0 means a cluster decides.

    Raises:
        ConfigError: a trial asks for more than this machine has.
    """
    if config.ray_address is not None:
        return 0
    gpus = _count_gpus() if config.resources.gpus else 0
    return limit_slots(config, [(available_cores(), gpus)])


def describe_load(config: ExecutionConfig, slots: int) -> str | None:
    """That others may be at work on the cores that this sweep counts as its own; None where there is enough for all.

    Two sweeps of one machine, say, count all of its cores each. The load average that tells so is the machine's: a
    process that may use a part of the machine only learns nothing from it.

    Args:
        slots: trials at once on this machine.
    """
    cores = available_cores()
    unknown = config.ray_address is not None or not hasattr(os, "getloadavg")
    if unknown or cores < (os.cpu_count() or 1):
        return None
    load, each = os.getloadavg()[0], config.resources.cpus * config.resources.workers
    if load + each * slots <= _CROWDED * cores:
        return None
    fit = max(1, int((cores - load) / each)) if each else slots
    advice = f"--slots {fit} leaves it its cores" if fit < slots else "both will be slow"
    return f"the load of this machine is {load:.1f} on {cores} cores; if other work goes on here, {advice}"


def limit_slots(config: ExecutionConfig, machines: list[tuple[float, float]]) -> int:
    """How many trials fit at once on machines with these (CPUs, GPUs), at most `slots`.

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


class Slots:
    """The number of trials that fit at once on the machines of the Ray session, which come and go.

    Attributes:
        last: the last number, without counting again.
    """

    def __init__(self, config: ExecutionConfig) -> None:
        self._config = config
        self._counted, self.last = -_CACHE_SECONDS, 0

    def __call__(self) -> int:
        """Counts the slots; 0 while no machine can hold a trial."""
        if time.monotonic() - self._counted >= _CACHE_SECONDS:
            count = 0
            with contextlib.suppress(ConfigError):
                count = self._limit()
            self._counted, self.last = time.monotonic(), count
        return self.last

    def wait(self, asked_to_stop: Callable[[], bool]) -> None:
        """Waits for the first machine that can hold a trial; raises as `limit_slots` if none can join."""
        warned = False
        while not asked_to_stop():
            try:
                self._limit()
                return
            except ConfigError as error:
                if self._config.ray_address is None:
                    raise
                if not warned:
                    logger.warning("%s; waiting for a machine that has the room", error)
                    warned = True
            time.sleep(0.5)

    def _limit(self) -> int:
        from sweep.execution.ray_session import machines

        return limit_slots(self._config, [(cpus, gpus) for _, cpus, gpus in machines()])

"""How trials are best packed onto a machine: many of one thread each, or few of many, measured with real steps."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier

from trainer.config import TrainConfig
from trainer.speed import Speed, measure_speed


@dataclass(frozen=True)
class SlotThroughput:
    """So many trials at the same time with so many threads each, and how each of them went."""

    slots: int
    threads: int
    speeds: tuple[Speed, ...]

    @property
    def images_per_second(self) -> float:
        """Of all trials together."""
        return sum(speed.images_per_second for speed in self.speeds)


def alternatives(slots: int, threads: int) -> list[tuple[int, int]]:
    """The packings with half and with twice the threads on as many cores, as (slots, threads)."""
    found = []
    if slots % 2 == 0:
        found.append((slots // 2, threads * 2))
    if threads % 2 == 0:
        found.append((slots * 2, threads // 2))
    return found


def measure_throughput(config: TrainConfig, slots: int, threads: int, seconds: float = 5.0) -> SlotThroughput:
    """Trains `slots` times the same config at the same time, in processes of their own, for some seconds.

    The crop cache must exist, else each would wait for the one that builds it.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(slots)
    config = config.replace({"run.threads": threads})
    with ProcessPoolExecutor(slots, mp_context=context, initializer=_share, initargs=(barrier,)) as pool:
        jobs = [pool.submit(_measure, config, seconds) for _ in range(slots)]
        return SlotThroughput(slots, threads, tuple(job.result() for job in jobs))


_barrier: Barrier


def _share(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _measure(config: TrainConfig, seconds: float) -> Speed:
    return measure_speed(config, seconds, lambda: _barrier.wait(timeout=600))

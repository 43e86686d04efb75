"""--dry-run: checks everything a sweep needs, measures a few training steps, and forecasts time and disk space."""

from __future__ import annotations

import math
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.synchronize import Barrier

from sweep.core.config import SweepConfig
from sweep.core.errors import TrackingUnavailable
from sweep.core.formatting import format_seconds
from sweep.core.mlflow_uri import resolve_uri
from sweep.core.redaction import redact
from sweep.driver.preparation import speeds_apart
from sweep.execution.resources import check_local, describe_load
from sweep.search.rehearsal import expected_extent
from sweep.tracking.artifacts import make_mlflow_sync
from trainer.config import TrainConfig
from trainer.cores import available_memory
from trainer.data.crop_cache import load_splits
from trainer.data.survey import survey
from trainer.forms import Form, FormSpeeds, choose, form_of
from trainer.speed import Speed, measure_speed
from trainer.user_folders import check_output

_MEMORY_SHARE = 0.9  # of the memory that trials may take; above it, Ray ends one
_MIN_GAIN = 0.05  # of throughput, from which another division of the cores is recommended


def dry_run(config: SweepConfig) -> str:
    """Checks data, space, resources and MLflow, and runs a few steps of the base config; returns a text.

    Raises:
        ConfigError, DataError: as the sweep itself would.
    """
    fit = check_local(config) or config.slots or 1
    slots = min(fit, config.trials or fit)
    on_cores = config.ray_address is None and not config.resources.gpus
    check_output(config.folder, "output")
    lines = [f"sweep {config.name}: {_budget(config)} into {config.folder}"]
    lines += [f"  space      {d.key}: {d.kind} {d.choices or (d.low, d.high)}" for d in config.dimensions]
    lines.append(
        f"  resources  {config.resources.cpus:g} CPUs, {config.resources.gpus:g} GPUs a trial; {slots} at once"
    )
    if load := describe_load(config, slots):
        lines.append(f"             {load}")
    lines.append(f"  MLflow     {_check_mlflow(config)}")
    faces = survey(config.train.data, load_splits(config.train))
    lines += [f"  {title:<10} {line}" for title, line in zip_longest(["faces"], faces.lines(), fillvalue="")]
    speeds = speeds_apart(config.train)
    config = config.with_train(choose(config.train, {"this machine": speeds}))
    lines += _compare_forms(form_of(config.train), speeds)
    # with GPUs, one trial alone: several processes would all use the first GPU
    throughput = measure_throughput(config.train, slots if on_cores else 1, config.train.run.threads or 1)
    speed = min(throughput.speeds, key=lambda s: s.images_per_second)
    lines.append(
        f"  speed      {speed.images_per_second:.1f} images/s a trial; "
        f"validation {format_seconds(speed.validation_seconds)}; memory {_gigabytes(speed.memory_bytes)} a trial"
    )
    lines += _compare_memory(speed.memory_bytes, slots, available_memory()) if on_cores else []
    if on_cores:
        lines += _compare_throughputs(config, throughput)
    return "\n".join([*lines, *_forecast(config, slots, faces.splits["train"].faces, speed)])


def _compare_forms(chosen: Form, speeds: FormSpeeds) -> list[str]:
    """Precision and memory layout of the network, and the speed of the alternatives."""
    if not speeds.measured:
        return [f"  network    {chosen} ({speeds.source})"]
    others = [form for form in speeds.ordered if form != chosen]
    rate = speeds.rates[chosen]
    return [
        f"  network    {chosen}: {rate:.1f} images/s without faces and loss ({speeds.source})",
        *(
            f"             {form}: {speeds.rates[form]:.1f} ({speeds.rates[form] / rate:.2f} of that)"
            for form in others
        ),
    ]


def _budget(config: SweepConfig) -> str:
    limits = {"trials": config.trials, "epochs": config.epochs, "device hours": config.device_hours}
    limits["hours"] = config.hours
    return " or ".join(f"{limit:g} {unit}" for unit, limit in limits.items() if limit is not None)


def _check_mlflow(config: SweepConfig) -> str:
    uri = resolve_uri(config.mlflow_uri, config.folder.parent)
    config.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        make_mlflow_sync(config, config.train.data.threshold).check()
    except TrackingUnavailable as error:
        return f"AWAY: {error}; the sweep would run and MLflow catch up later"
    return f"{redact(uri)} answers"


def _compare_throughputs(config: SweepConfig, configured: SlotThroughput) -> list[str]:
    """Throughput of other divisions of the same cores."""
    others = [measure_throughput(config.train, *other) for other in alternatives(configured.slots, configured.threads)]
    lines = [f"  packing    {_describe(configured)}, as configured"]
    for other in others:
        gain = other.images_per_second / configured.images_per_second - 1
        advice = f"; try --resources.cpus {other.threads}" if gain > _MIN_GAIN else ""
        lines.append(f"             {_describe(other)} ({gain:+.0%}{advice})")
    return lines


def _compare_memory(each: int, slots: int, available: int | None) -> list[str]:
    """The memory of all trials at once against what this process may use; nothing where that is not known."""
    if available is None:
        return []
    fit = max(1, int(_MEMORY_SHARE * available / each))
    advice = f"; too much: try --slots {fit}" if fit < slots else ""
    return [f"  memory     {_gigabytes(each * slots)} of {_gigabytes(available)} for {slots} at once{advice}"]


def _describe(throughput: SlotThroughput) -> str:
    slots, threads = throughput.slots, throughput.threads
    trials = f"{slots} trial{'s' * (slots > 1)} at once with {threads} thread{'s' * (threads > 1)}"
    return f"{trials}: {throughput.images_per_second:.1f} images/s together"


def _forecast(config: SweepConfig, slots: int, faces: int, speed: Speed) -> list[str]:
    epochs = config.train.optim.epochs
    epoch = faces / speed.images_per_second + speed.validation_seconds
    trial = epochs * epoch
    longest = [
        config.trials and trial * math.ceil(config.trials / slots),
        config.epochs and config.epochs * epoch / slots,
    ]
    longest += [hours and hours * 3600 for hours in (config.hours, config.device_hours)]
    kept = config.keep + (config.repeats.candidates if config.repeats.share else 0)
    kept = min(kept, config.trials or kept)
    paused = min(config.pruner.paused, config.trials or config.pruner.paused) if config.pruner.pauses else 0
    disk = (slots + paused) * speed.state_bytes + (kept + slots + paused) * speed.state_bytes // 3
    extent = expected_extent(config, slots)
    expected = "" if extent is None else f"about {format_seconds(extent.rounds * epoch)}, "
    lines = [
        f"  a trial    {format_seconds(trial)} for {epochs} epochs",
        f"  the sweep  {expected}at most {format_seconds(min(filter(None, longest)))} (no trial stopped early), "
        f"{_gigabytes(disk)} of disk (the weights of {kept} trials are kept"
        + (f", and the state of up to {paused} that are paused)" if paused else ")"),
    ]
    if config.timeout_minutes and epoch > config.timeout_minutes * 30:
        lines.append(
            f"  timeout    an epoch takes {format_seconds(epoch)}: raise timeout_minutes = {config.timeout_minutes:g}"
        )
    return lines


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


@dataclass(frozen=True)
class SlotThroughput:
    """The speed of `slots` trials that train at the same time, each with `threads` threads."""

    slots: int
    threads: int
    speeds: tuple[Speed, ...]

    @property
    def images_per_second(self) -> float:
        """Sum over the trials."""
        return sum(speed.images_per_second for speed in self.speeds)


def alternatives(slots: int, threads: int) -> list[tuple[int, int]]:
    """Half and twice the threads on as many cores, as (slots, threads)."""
    found = []
    if slots % 2 == 0:
        found.append((slots // 2, threads * 2))
    if threads % 2 == 0:
        found.append((slots * 2, threads // 2))
    return found


def measure_throughput(config: TrainConfig, slots: int, threads: int, seconds: float = 5.0) -> SlotThroughput:
    """Trains a config in `slots` processes at the same time for some seconds; the crop cache must exist."""
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

"""How far a sweep scales: 1,000 trials on 200 slots of 16 nodes through the whole stack, 10,000 on 1,000 in simulation.

Trials do nothing, see `benchmarks.growth`. Processor time is measured, which other processes on the machine change
little. Every sweep has a process of its own: `python -m benchmarks.scale KIND NUMBER ...` prints what it found as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import growth, light
from benchmarks.asking import PASTS, SAMPLERS, ask, configured, others, saturation
from benchmarks.measuring import Table, Tables, peak_memory
from benchmarks.nodes import cluster, room
from benchmarks.watch import NATIVE, Threads, Timed, medians
from sweep.core.trial import Params

REAL = ((100, 2, 20), (300, 5, 60), (1000, 16, 200))  # trials, nodes, slots
SIMULATED = ((1000, 100), (3000, 300), (10_000, 1000))  # trials, slots
_WORK, _WRITER, _MAIN = "ray-work", "mlflow-writer", "MainThread"
_COSTS = ("driver CPU s", "ms a trial", "ask ms: all, last 10 %", "report ms: all, last 10 %", "driver memory MB")


@dataclass(frozen=True)
class Run:
    """One sweep; times are processor time of the driver.

    Attributes:
        cpu: seconds, from the first trial until all is noted, and MLflow has everything.
        threads: the same by thread.
        ask: milliseconds of a suggestion with its note in the study; median of all, and of the last tenth.
        report: milliseconds of a report with its note in event log and study, and the decision; likewise.
        memory: the driver's peak in bytes.
        seconds: from the first to the last event, on the clock.
        sent: events that MLflow got.
        sending: seconds of sending them.
        late: seconds on the clock from the last trial's end until MLflow had everything.
    """

    trials: int
    slots: int
    reports: int
    cpu: float
    ask: tuple[float, float]
    report: tuple[float, float]
    memory: int
    nodes: int = 0
    seconds: float = 0.0
    sent: int = 0
    sending: float = 0.0
    late: float = 0.0
    threads: dict[str, float] = field(default_factory=dict)

    def costs(self) -> list[str]:
        """The cells under `_COSTS`."""
        pairs = [", ".join(f"{value:.{1 if value >= 1 else 2}f}" for value in pair) for pair in (self.ask, self.report)]
        return [f"{self.cpu:.0f}", f"{1e3 * self.cpu / self.trials:.0f}", *pairs, f"{self.memory / 1e6:.0f}"]


def measure() -> Tables:
    """Runs everything, one after the other."""
    real = [Run(**_alone("real", *sizes)) for sizes in REAL]
    simulated = [Run(**_alone("simulated", *sizes)) for sizes in SIMULATED]
    ours, tpe = ({n: float(_alone("ask", n, sampler)) for n in PASTS} for sampler in range(len(SAMPLERS)))
    rest = {trials: tuple(_alone("others", trials)) for trials in PASTS}
    return Tables([_real_table(real), _simulated_table(simulated), saturation(ours, tpe, rest)])


def _alone(kind: str, *numbers: int) -> Any:
    command = [sys.executable, "-m", "benchmarks.scale", kind, *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{kind} {numbers} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# The whole stack


def run_real(trials: int, nodes: int, slots: int) -> Run:
    """A sweep on nodes of this machine, with fewer slots where its memory does not hold so many workers."""
    import ray
    from rich.console import Console

    from sweep.core import mlflow_uri
    from sweep.driver import session
    from sweep.execution import trial_worker
    from sweep.storage import sweep_folder
    from sweep.storage.event_log import Event, EventKind, EventLog
    from sweep.tracking import artifacts

    slots = min(slots, room(nodes))
    times: dict[EventKind, list[float]] = {kind: [] for kind in EventKind}
    start: list[tuple[float, Mapping[str, float]]] = []

    class TimedLog(EventLog):
        """Notes when things happened, and what was spent before the first trial."""

        def append(self, event: Event) -> None:
            if event.kind is EventKind.TRIAL_STARTED and not start:
                start.append((time.process_time(), threads.seconds()))
            times[event.kind].append(event.time)
            super().append(event)

    session.EventLog = TimedLog  # type: ignore[misc]
    trial_worker.run_trial = growth.do_nothing
    _by_value(growth, light)
    light.make_workers_light(ray)
    with (
        _timed() as (asks, reports, sent),
        tempfile.TemporaryDirectory() as output,
        Threads() as threads,
        cluster(nodes, slots) as address,
    ):
        config = configured(trials, Path(output), {"ray_address": address})
        growth.make_tables(mlflow_uri.resolve_uri(None, Path(output)))
        with open(os.devnull, "w") as nowhere:
            session.SweepRun(config, Console(file=nowhere), "scale").run()
        if not artifacts.make_mlflow_sync(config, config.train.data.threshold).finished:
            raise RuntimeError("MLflow has not got everything in time")
        done = (config.folder / sweep_folder.MLFLOW_STATE_FILE).stat().st_mtime
        cpu, spent = time.process_time(), threads.seconds()
    ends = times[EventKind.TRIAL_ENDED]
    return Run(
        trials=len(ends),
        nodes=nodes,
        slots=slots,
        reports=len(times[EventKind.REPORT]),
        cpu=cpu - start[0][0],
        threads={name: seconds - start[0][1].get(name, 0.0) for name, seconds in spent.items()},
        ask=medians(asks.seconds),
        report=medians(reports.seconds),
        memory=peak_memory(),
        seconds=ends[-1] - times[EventKind.TRIAL_STARTED][0],
        sent=sent.given,
        sending=sum(sent.seconds),
        late=done - ends[-1],
    )


@contextlib.contextmanager
def _timed() -> Iterator[tuple[Timed, Timed, Timed]]:
    """Watches over asks, reports, and what is sent to MLflow."""
    from sweep.search.controller import SweepController
    from sweep.search.study import Study
    from sweep.tracking.projector import MlflowSync

    with (
        Timed(Study, "ask") as asks,
        Timed(SweepController, "report") as reports,
        Timed(MlflowSync, "catch_up") as sent,
    ):
        yield asks, reports, sent


def _by_value(*modules: Any) -> None:
    """Workers of a cluster have `sweep` and `trainer`, and not this package."""
    from ray import cloudpickle

    for module in modules:
        cloudpickle.register_pickle_by_value(module)


def _real_table(runs: Sequence[Run]) -> Table:
    header = ("trials", "nodes", "slots", "reports", *_COSTS, "MLflow events/s of CPU", "done after")
    rows = []
    for run in runs:
        mlflow = [f"{run.sent / run.sending:.0f}", f"{run.late:.1f} s"]
        rows.append([str(run.trials), str(run.nodes), str(run.slots), str(run.reports), *run.costs(), *mlflow])
    text = (
        "Trials only report, as in the table above. The nodes are Ray nodes of this one machine with pretended CPUs, "
        "and a head without any; the demo's sampler and pruner, study and MLflow in SQLite. Processor time is the "
        "driver's, from the first trial until MLflow has everything, and excludes Ray's other processes and the "
        "trials; wall clock says nothing where hundreds of workers share so few cores. Medians of an ask with its "
        "note in the study, and of a report with its note in event log and study and the decision. "
    )
    text += _by_thread(runs[-1]) + _growth(runs) + _shortage(runs)
    return Table("What a sweep costs its driver, by size", header, rows, text)


def _shortage(runs: Sequence[Run]) -> str:
    wanted = {trials: slots for trials, _, slots in REAL}
    short = [run for run in runs if run.slots < wanted[run.trials]]
    return "".join(
        f" {run.trials} trials were to have {wanted[run.trials]} slots; so many workers, 116 MB each, do not fit into "
        "this machine's memory."
        for run in short
    )


def _by_thread(run: Run) -> str:
    work, writer, native = (run.threads.get(name, 0.0) for name in (_WORK, _WRITER, NATIVE))
    asked, reported = (
        1e-3 * median * count for (median, _), count in ((run.ask, run.trials), (run.report, run.reports))
    )
    return (
        f"Of the {run.cpu:.0f} s of {run.trials} trials, {work:.0f} s are of the thread that asks, reports and runs "
        f"Ray Tune (asks about {asked:.0f} s, reports {reported:.0f} s), {writer:.0f} s of MLflow's, {native:.0f} s of "
        f"Ray's own threads in C++, {run.cpu - work - writer - native:.0f} s of the rest. Python shares a core: "
        f"{run.reports / run.cpu:.0f} reports and {run.trials / run.cpu:.1f} trials a second are the most that one "
        f"driver takes at this size, and the largest part of it is MLflow's, {run.sent / run.sending:.0f} events a "
        "second at most. "
    )


def _growth(runs: Sequence[Run]) -> str:
    first, last = runs[0], runs[-1]
    kilobytes = (last.memory - first.memory) / (last.trials - first.trials) / 1e3
    dearer = (last.cpu / last.trials) / (first.cpu / first.trials)
    return (
        f"A trial of {last.trials} costs {dearer:.2f}x one of {first.trials}, an ask "
        f"{last.ask[0] / first.ask[0]:.2f}x, a report {last.report[0] / first.report[0]:.2f}x; memory grows by "
        f"{kilobytes:.0f} kB a trial."
    )


# In simulation


class Cheap:
    """A task with the curves of `growth.epochs`; each epoch takes about an hour."""

    epochs = growth.EPOCHS

    def seconds(self, epoch: int) -> float:
        """Simulated, not quite the same for all epochs, so that few reports come together."""
        return 3600.0 + 7 * epoch

    def curve(self, params: Params, seed: int) -> NDArray[np.float64]:
        """By epoch."""
        return np.array([row["best_nme"] for row in growth.epochs(*map(float, params.values()))])  # type: ignore[arg-type]

    def true_nme(self, params: Params) -> float:
        """There is no noise."""
        return float(self.curve(params, 0)[-1])


def run_simulated(trials: int, slots: int) -> Run:
    """A sweep without Ray, database, event log and MLflow."""
    from sweep.simulation.simulator import simulate

    config = configured(trials, Path(tempfile.gettempdir()), {})
    began = time.process_time()
    with _timed() as (asks, reports, _):
        found = simulate(config, Cheap(), slots, seed=0)  # type: ignore[arg-type]
    cpu = time.process_time() - began
    costs = medians(asks.seconds), medians(reports.seconds)
    return Run(len(found.records), slots, len(reports.seconds), cpu, *costs, peak_memory())


_SIMULATED = (
    "The real sampler, scheduler and controller, with a study in memory, and without Ray, event log and MLflow. "
)


def _simulated_table(runs: Sequence[Run]) -> Table:
    header = ("trials", "slots", "reports", *_COSTS)
    rows = [[str(run.trials), str(run.slots), str(run.reports), *run.costs()] for run in runs]
    return Table("The same in simulation", header, rows, _SIMULATED + _growth(runs))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:]]
    kinds: dict[str, Any] = {"real": run_real, "simulated": run_simulated, "ask": ask, "others": others}
    result = kinds[sys.argv[1]](*numbers)
    print(json.dumps(asdict(result) if isinstance(result, Run) else result))

"""How the cost of a trial grows with the number of trials: sweeps whose trials do nothing, through the whole stack.

The same sweep runs through Ray Tune's own stack (OptunaSearch, ASHAScheduler, MLflowLoggerCallback) for comparison.
Every sweep has a process of its own: `python -m benchmarks.growth STACK TRIALS FOLDER` runs one and prints it as JSON.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import Table, peak_memory
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.core.mlflow_uri import resolve_uri
from sweep.search.rungs import ladder
from sweep.storage.sweep_folder import CED_FILE

TRIALS = (50, 200, 800)
EPOCHS, SLOTS = 8, 2
OURS, THEIRS, REUSING = "starsweep", "Ray Tune", "Ray Tune, reuse_actors"
_END = TRIALS[0]  # trials at the end of a sweep that are timed by themselves
_PATIENCE = 360.0  # seconds that a sweep of Ray's stack may take
_COSTS = ("ms a trial", f"of the last {_END}", "to 50 trials", "ms a report", "driver CPU ms a report")
_HEADER = ("stack", "trials", *_COSTS, "driver memory MB", "MLflow done after")


@dataclass(frozen=True)
class Sweep:
    """One sweep, from its first report to the end of its last trial, so that no start of Ray or of a worker is in it.

    Attributes:
        seconds: all of it.
        end_seconds: its last `_END` trials.
        cpu: seconds of processor time of the driver, until MLflow has everything.
        memory: the driver's peak, in bytes.
        late: seconds from the last trial's end until MLflow had everything.
    """

    stack: str
    trials: int
    reports: int
    seconds: float
    end_seconds: float
    cpu: float
    memory: int
    late: float

    @property
    def per_trial(self) -> float:
        """Milliseconds."""
        return 1e3 * self.seconds / self.trials

    @property
    def per_trial_at_end(self) -> float:
        """Milliseconds."""
        return 1e3 * self.end_seconds / _END

    @property
    def per_report(self) -> float:
        """Milliseconds."""
        return 1e3 * self.seconds / self.reports


def measure() -> Table:
    """Runs all sweeps, one after the other."""
    sweeps: dict[str, list[Sweep]] = {OURS: [], THEIRS: [], REUSING: []}
    left_out = ""
    for stack, done in sweeps.items():
        for trials in TRIALS:
            expected = _forecast(done, trials)
            if stack != OURS and expected > _PATIENCE:
                left_out += f" {stack} with {trials} trials was left out, it would take about {expected / 60:.0f} min."
            else:
                done.append(_in_own_process(stack, trials))
    rows = [_cells(sweep, done[0]) for done in sweeps.values() for sweep in done]
    return Table("What a trial costs in a long sweep", _HEADER, rows, _conditions(sweeps) + left_out)


def _cells(sweep: Sweep, first: Sweep) -> list[str]:
    ratios = [f"{sweep.per_trial / first.per_trial:.2f}x"]
    times = [f"{sweep.per_trial:.0f}", f"{sweep.per_trial_at_end:.0f}", *ratios, f"{sweep.per_report:.1f}"]
    driver = [f"{1e3 * sweep.cpu / sweep.reports:.1f}", f"{sweep.memory / 1e6:.0f}"]
    return [sweep.stack, str(sweep.trials), *times, *driver, f"{sweep.late:.1f} s"]


def _conditions(sweeps: dict[str, list[Sweep]]) -> str:
    first, last = sweeps[OURS][0], sweeps[OURS][-1]
    kilobytes = (last.memory - first.memory) / (last.trials - first.trials) / 1e3
    dearer = "; ".join(
        f"{stack} " + ", ".join(f"{b.per_report / a.per_report:.1f}x with {a.trials} trials" for a, b in pairs)
        for stack in (THEIRS, REUSING)
        if (pairs := list(zip(sweeps[OURS], sweeps[stack], strict=False)))
    )
    return (
        f"A trial only reports: up to {EPOCHS} epochs of {len(next(epochs(1.0, 1e-3)))} metrics. {SLOTS} trials at "
        "once, TPE, successive halving from epoch 2 by 2, MLflow in SQLite; starsweep's study is in SQLite too, that "
        "of Ray's stack in memory. Time runs from the first report to the last trial's end, so starting Ray and the "
        "first workers, imports and making MLflow's tables are not in it; the driver's CPU counts until MLflow has "
        f"everything. starsweep: a trial of {last.trials} costs {last.per_trial / first.per_trial:.2f}x one of "
        f"{first.trials}, the last {_END} of them {last.per_trial_at_end / first.per_trial:.2f}x, and the driver's "
        f"memory grows by {kilobytes:.0f} kB a trial. A report costs, against starsweep: {dearer}."
    )


def _forecast(done: list[Sweep], trials: int) -> float:
    """Seconds that so many trials will take, when the cost of a trial grows on as it did."""
    if len(done) < 2:
        return 0.0
    a, b = done[-2:]
    growth = max(0.0, (b.per_trial - a.per_trial) / (b.trials - a.trials))
    return trials * (b.per_trial + growth * (trials - b.trials)) / 1e3


def _in_own_process(stack: str, trials: int) -> Sweep:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.growth", stack, str(trials), folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{stack} with {trials} trials failed:\n{done.stderr[-3000:]}")
    return Sweep(**json.loads(done.stdout.splitlines()[-1]))


def run_one(stack: str, trials: int, folder: Path) -> Sweep:
    """One sweep in this process: the demo's space, sampler and pruner; its faces are prepared and never looked at."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    given = {"name": "growth", "output": folder, "trials": trials, "slots": SLOTS, "train.optim.epochs": EPOCHS}
    faces = {"train_faces": 32, "val_faces": 16, "image_size": 32, "cache_dir": folder / "cache"}
    given |= {f"train.data.{key}": value for key, value in faces.items()}
    config = load_sweep(None, {key: str(value) for key, value in given.items()})
    make_tables(resolve_uri(None, folder))
    return _run_ours(config) if stack == OURS else _run_theirs(config, reuse_actors=stack == REUSING)


def make_tables(uri: str) -> None:
    """Loads mlflow and makes its tables, which happens once a database, not once a sweep."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def epochs(star_weight: float, lr: float) -> Iterator[dict[str, float]]:
    """What a trainer reports: an NME that falls to where the parameters decide, so that there is something to stop."""
    aim = 0.05 + 0.02 * (abs(math.log10(star_weight)) + abs(math.log10(lr) + 3))
    for epoch in range(1, EPOCHS + 1):
        nme = aim + 0.1 / epoch
        quality = {"best_nme": nme, "train/loss": 10 * nme, "val/nme": nme, "val/fr10": 5 * nme, "val/auc10": 1 - nme}
        yield {**quality, "lr": lr, "images_per_second": 100.0 + epoch, "epoch_seconds": 0.01}


def _run_ours(config: SweepConfig) -> Sweep:
    from rich.console import Console

    from sweep.driver import session
    from sweep.execution import trial_worker
    from sweep.storage import sweep_folder
    from sweep.storage.event_log import Event, EventKind, EventLog
    from sweep.tracking import artifacts

    clock: list[float] = []

    class TimedLog(EventLog):
        """Notes the processor time of the first report."""

        def append(self, event: Event) -> None:
            super().append(event)
            if event.kind is EventKind.REPORT and not clock:
                clock.append(time.process_time())

    trial_worker.run_trial = do_nothing
    session.EventLog = TimedLog  # type: ignore[misc]
    with open(os.devnull, "w") as nowhere:
        session.SweepRun(config, Console(file=nowhere), "growth").run()
    cpu = time.process_time() - clock[0]
    if not artifacts.make_mlflow_sync(config, config.train.data.threshold).finished:
        raise RuntimeError("MLflow has not got everything in time")
    with EventLog(config.folder / sweep_folder.EVENTS_FILE) as log:
        events = [event for event, _ in log.read()]
    reports = [event.time for event in events if event.kind is EventKind.REPORT]
    ends = [event.time for event in events if event.kind is EventKind.TRIAL_ENDED]
    return _sweep(OURS, reports, ends, cpu, (config.folder / sweep_folder.MLFLOW_STATE_FILE).stat().st_mtime)


def do_nothing(task: dict[str, Any], storage: Any = None, resources: Any = None) -> None:
    """In place of `sweep.execution.trial_worker.run_trial`; leaves something for a picture, so that none is drawn."""
    from ray import tune

    from sweep.core.trial import State
    from sweep.execution.trial_messages import EpochReport, TrialEnd

    number, train = task["trial"], task["config"]
    folder = Path(train["run"]["output"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CED_FILE).write_bytes(bytes(20_000))
    for epoch, row in enumerate(epochs(train["loss"]["star_weight"], train["optim"]["lr"]), 1):
        tune.report(EpochReport(number, epoch, row).mapping())
    tune.report(TrialEnd(number, State.COMPLETE).mapping())


def _run_theirs(config: SweepConfig, reuse_actors: bool) -> Sweep:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    reports: list[float] = []
    ends: list[float] = []
    clock: list[float] = []

    class Clock(tune.Callback):
        """Notes the times of reports and ends, behind MLflow's callback."""

        def on_trial_result(self, *_: Any, **__: Any) -> None:
            reports.append(time.time())
            if not clock:
                clock.append(time.process_time())

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            ends.append(time.time())

    def objective(params: dict[str, float]) -> None:
        for row in epochs(params["star_weight"], params["lr"]):
            tune.report(row)

    folder, reduction = Path(config.output), config.pruner.reduction
    tracking = MLflowLoggerCallback(resolve_uri(None, folder), experiment_name=config.mlflow_experiment)
    halving = ASHAScheduler(max_t=EPOCHS, grace_period=ladder(config)[0], reduction_factor=reduction)
    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
    tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        param_space={d.key.rpartition(".")[2]: tune.loguniform(d.low, d.high) for d in config.dimensions},
        tune_config=tune.TuneConfig(
            metric="best_nme",
            mode="min",
            search_alg=OptunaSearch(),
            scheduler=halving,
            num_samples=config.trials,
            max_concurrent_trials=SLOTS,
            reuse_actors=reuse_actors,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="theirs", verbose=0, callbacks=[tracking, Clock()]),
    ).fit()
    done, cpu = time.time(), time.process_time() - clock[0]
    ray.shutdown()
    return _sweep(REUSING if reuse_actors else THEIRS, reports, ends, cpu, done)


def _sweep(stack: str, reports: list[float], ends: list[float], cpu: float, done: float) -> Sweep:
    """From the times of all reports and of all ends of trials; `done` is when MLflow had everything."""
    started = max(reports[0], ends[-_END - 1] if len(ends) > _END else 0.0)
    seconds, late = ends[-1] - reports[0], done - ends[-1]
    return Sweep(stack, len(ends), len(reports), seconds, ends[-1] - started, cpu, peak_memory(), late)


if __name__ == "__main__":
    print(json.dumps(asdict(run_one(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))))

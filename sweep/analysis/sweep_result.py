"""The result of a sweep, also of a running one: config, trials, curves, reruns and findings.

It is read from the event log in the sweep's folder, without the study's database, Ray or MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.analysis.findings import Findings
from sweep.core.config import SweepConfig
from sweep.core.config_file import load_sweep
from sweep.core.trial import State, TrialRecord
from sweep.search.ranking import best, rank
from sweep.storage.event_log import Event, EventKind, read_events
from sweep.storage.log_state import BEST_NME, LogState
from sweep.storage.sweep_folder import CONFIG_FILE, EVENTS_FILE, find_sweep
from trainer.config import TrainConfig
from trainer.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunInterval:
    """An interval in which a trial ran, in seconds since the epoch; `outcome` is its state, INTERRUPTED or CRASHED."""

    trial: int
    start: float
    end: float
    outcome: str


@dataclass(frozen=True)
class Rerun:
    """A rerun of a trial's config. `purpose` is seed or final, `of` the number of the trial."""

    run: str
    purpose: str
    of: int
    state: State
    config: TrainConfig
    history: tuple[Mapping[str, float], ...]


@dataclass
class SweepResult:
    """A sweep and its results.

    Attributes:
        config: as the sweep was last run.
        records: trials by number, see `TrialRecord`.
        history_by_trial: metrics of each trial by epoch, as in metrics.jsonl.
        best_nme_by_report: best NME so far of the reporting trial, at each report in order.
        run_intervals: when which trial ran.
        reruns: by name.
        findings: of `sweep.rerun`.
        test_readings: number of times the test split was read.
        tags: provenance: versions, commit, machine, hashes of the faces.
        invocations: starts of the command, in seconds since the epoch.
    """

    config: SweepConfig
    records: dict[int, TrialRecord] = field(default_factory=dict)
    history_by_trial: dict[int, dict[int, dict[str, float]]] = field(default_factory=dict)
    best_nme_by_report: list[float] = field(default_factory=list)
    run_intervals: list[RunInterval] = field(default_factory=list)
    reruns: dict[str, Rerun] = field(default_factory=dict)
    findings: Findings = field(default_factory=Findings)
    test_readings: int = 0
    tags: dict[str, str] = field(default_factory=dict)
    invocations: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def folder(self) -> Path:
        return self.config.folder

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials, best first, as in leaderboard.csv."""
        return rank(list(self.records.values()))

    @property
    def best(self) -> TrialRecord | None:
        """The winner; None while no trial is complete."""
        return best(list(self.records.values()))

    @property
    def best_config(self) -> TrainConfig:
        """The winner's complete config.

        Raises:
            ConfigError: there is no winner yet.
        """
        if self.best is None:
            raise ConfigError(f"sweep {self.name}: no trial is complete, so there is no winner yet")
        return self.config.best_config(self.best.params)

    @property
    def epochs_spent(self) -> int:
        """Epochs trained by all trials together."""
        return sum(r.epochs for r in self.records.values())

    @property
    def trial_hours(self) -> float:
        """Hours trained by all trials together, parallel ones added up."""
        return sum(max(0.0, span.end - span.start) for span in self.run_intervals) / 3600

    @cached_property
    def trials(self) -> pd.DataFrame:
        """A row per trial, best first: number, state, best_nme (a fraction), epochs, seconds, reason, parameters."""
        import pandas as pd

        fixed = ["number", "state", "best_nme", "epochs", "seconds", "reason"]
        rows = [{key: getattr(r, key) for key in fixed} | {"state": r.state.value} | r.params for r in self.ranked]
        return pd.DataFrame(rows, columns=[*fixed, *(d.key for d in self.config.dimensions)])

    @cached_property
    def history(self) -> pd.DataFrame:
        """A row per report: trial, epoch, and the metrics by their names in MLflow."""
        import pandas as pd

        trials = sorted(self.history_by_trial.items())
        rows = [{"trial": n, "epoch": e, **row} for n, by_epoch in trials for e, row in by_epoch.items()]
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "epoch"])


def load(sweep: str | Path, output: str | Path = "outputs", **overrides: str) -> SweepResult:
    """Reads a sweep.

    Args:
        sweep: its name in the output folder, or its folder.
        output: folder of the sweeps.
        overrides: settings that differ from those it was run with, such as mlflow_uri.

    Raises:
        ConfigError: there is no such sweep, or its files are damaged.
    """
    folder = find_sweep(sweep, Path(output))
    settings = {**overrides, "output": str(folder.parent), "name": folder.name}
    loaded = SweepResult(load_sweep(folder / CONFIG_FILE, settings, written=True))
    reader = _Reader(loaded)
    try:
        for event, _ in read_events(folder / EVENTS_FILE):
            reader.handle(event)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except (KeyError, TypeError) as error:  # an event of a trial that was never started
        raise ConfigError(f"{folder / EVENTS_FILE}: does not fit together ({error!r})") from None
    reader.close()
    return loaded


class _Reader:
    """Builds a sweep's result from its events, in the order in which they happened."""

    def __init__(self, sweep: SweepResult) -> None:
        self._sweep, self._state = sweep, LogState()
        self._running: dict[int, float] = {}  # since when, by trial
        self._last = 0.0

    def handle(self, event: Event) -> None:
        """Adds one event."""
        sweep, data = self._sweep, event.data
        self._state.add(event)
        if event.trial is not None:
            self._handle_trial(event, event.trial)
        elif event.kind is EventKind.SWEEP_STARTED:
            self._end_all(self._last, "INTERRUPTED")  # of a driver that was killed
        elif event.kind is EventKind.RERUN:
            config = TrainConfig.from_tree(dict(data["config"]), data["run"])
            state, history = State(data["state"]), tuple(data["history"])
            sweep.reruns[data["run"]] = Rerun(data["run"], data["purpose"], data["of"], state, config, history)
        elif event.kind is EventKind.TEST_READ:
            sweep.test_readings = data["reading"]
        elif event.kind is EventKind.FINDING:
            sweep.findings.add(data["about"], data["detail"])
        self._last = event.time

    def close(self) -> None:
        """The log ends here."""
        self._end_all(self._last, "RUNNING")
        state = self._state
        self._sweep.records, self._sweep.history_by_trial = state.records, state.history
        self._sweep.tags, self._sweep.invocations = state.tags, state.invocations

    def _handle_trial(self, event: Event, trial: int) -> None:
        if event.kind is EventKind.REPORT:
            self._sweep.best_nme_by_report.append(event.data["metrics"][BEST_NME])
        elif event.kind is EventKind.TRIAL_STARTED:
            self._end_interval(trial, event.time, "CRASHED")  # if it was running
            self._running[trial] = event.time
        elif event.kind is EventKind.TRIAL_INTERRUPTED:
            self._end_interval(trial, event.time, "INTERRUPTED")
        else:
            self._end_interval(trial, event.time, self._state.records[trial].state.value)

    def _end_interval(self, trial: int, end: float, outcome: str) -> None:
        if trial in self._running:
            self._sweep.run_intervals.append(RunInterval(trial, self._running.pop(trial), end, outcome))

    def _end_all(self, end: float, outcome: str) -> None:
        for trial in list(self._running):
            self._end_interval(trial, end, outcome)

"""The state of a sweep as Ray metrics, which Ray exports to Prometheus."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from ray.util import metrics

from sweep.core.config import SweepConfig
from sweep.core.trial import State
from sweep.search.controller import SweepController
from sweep.search.ranking import best
from sweep.storage.event_log import Event, EventKind

_SECONDS = 2.0  # between two updates


class Gauges:
    """Gauges of trials by state, best NME, slots, running trials, failures and MLflow's lag, updated with every event.

    Args:
        config: the sweep; its name is the label "sweep".
        controller: of the trials.
        slots: gives the number of trials that fit at once.
        lag: gives the number of events that MLflow has not got yet.
    """

    def __init__(
        self, config: SweepConfig, controller: SweepController, slots: Callable[[], int], lag: Callable[[], int]
    ) -> None:
        self._labels = {"sweep": config.name}
        self._controller, self._slots, self._lag = controller, slots, lag
        self._looked = -_SECONDS
        keys = ("sweep",)
        self._trials = metrics.Gauge("starsweep_trials", "trials by state", tag_keys=("sweep", "state"))
        self._best = metrics.Gauge("starsweep_best_nme", "lowest validation NME [fraction]", tag_keys=keys)
        self._room = metrics.Gauge("starsweep_slots", "trials that fit at once", tag_keys=keys)
        self._live = metrics.Gauge("starsweep_live_trials", "trials that run", tag_keys=keys)
        self._busy = metrics.Gauge("starsweep_busy_fraction", "part of the slots that train", tag_keys=keys)
        self._behind = metrics.Gauge("starsweep_mlflow_lag_events", "events that MLflow lacks", tag_keys=keys)
        self._counters = {
            name: metrics.Counter(f"starsweep_{name}", text, tag_keys=keys)
            for name, text in {
                "epochs": "epochs reported",
                "retries": "restarts of crashed trials",
                "failures": "trials given up",
            }.items()
        }

    def handle(self, event: Event) -> None:
        """Counts one event."""
        if event.kind is EventKind.REPORT:
            self._count("epochs")
        elif event.kind is EventKind.TRIAL_STARTED and "attempt" in event.data:
            self._count("retries")
        elif event.kind is EventKind.TRIAL_ENDED and event.data["state"] == State.FAILED.value:
            self._count("failures")
        if time.monotonic() - self._looked >= _SECONDS:
            self._look()
            self._looked = time.monotonic()

    def _count(self, name: str) -> None:
        self._counters[name].inc(tags=self._labels)

    def _look(self) -> None:
        records, slots, live = self._controller.records, self._slots(), self._controller.live
        states = Counter(r.state for r in records)
        for state in State:
            self._trials.set(states[state], tags=self._labels | {"state": state.value})
        if (winner := best(records)) and winner.best_nme is not None:
            self._best.set(winner.best_nme, tags=self._labels)
        self._room.set(slots, tags=self._labels)
        self._live.set(live, tags=self._labels)
        self._busy.set(min(1.0, live / slots) if slots else 0.0, tags=self._labels)
        self._behind.set(self._lag(), tags=self._labels)

"""What a sweep shows while it runs: one live table on a terminal, a line an event elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.analysis.leaderboard import summary_line
from sweep.core.config import SweepConfig
from sweep.core.formatting import format_params, format_seconds, format_value, short_name
from sweep.core.trial import State, TrialRecord
from sweep.search.ranking import best, rank
from sweep.storage.event_log import Event, EventKind

_STYLES = {
    State.RUNNING: "cyan",
    State.COMPLETE: "green",
    State.PRUNED: "yellow",
    State.DIVERGED: "magenta",
    State.INFEASIBLE: "magenta",
    State.PAUSED: "yellow",
    State.FAILED: "red",
}


class Board:
    """Shows the sweep; use as a context manager, and pass every event to `take`.

    Args:
        config: the sweep.
        records: gives the trials as the study holds them.
        slots: gives the number of trials at the same time.
        lag: events that MLflow has not got yet.
        console: where to show it.
    """

    def __init__(
        self,
        config: SweepConfig,
        records: Callable[[], list[TrialRecord]],
        slots: Callable[[], int],
        lag: Callable[[], int],
        console: Console,
    ) -> None:
        self._config, self._records, self._slots, self._lag, self._console = config, records, slots, lag, console
        self._speeds: dict[int, float] = {}
        self._started = time.monotonic()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def take(self, event: Event) -> None:
        """Shows one event."""
        if event.kind is EventKind.REPORT and event.trial is not None:
            self._speeds[event.trial] = event.data["metrics"]["images_per_second"]
        if not self._console.is_terminal:
            line = self._line(event)
            if line:
                self._console.print(line, highlight=False, soft_wrap=True)

    def _line(self, event: Event) -> str | None:
        number, data = event.trial, event.data
        if event.kind is EventKind.TRIAL_STARTED:
            again = f", attempt {data['attempt'] + 1}" if "attempt" in data else ""
            return f"trial {number} started: {format_params(data['params'])}{again}"
        if event.kind is EventKind.REPORT:
            m, epochs = data["metrics"], self._config.train.optim.epochs
            return (
                f"trial {number} epoch {data['step']}/{epochs}: loss {m['train/loss']:.4f}, "
                f"val NME {m['val/nme']:.2%}, best {m['best_nme']:.2%}, {m['images_per_second']:.0f} images/s"
            )
        if event.kind is EventKind.TRIAL_ENDED:
            nme = f" with best val NME {data['best_nme']:.2%}" if data["best_nme"] is not None else ""
            reason = f" ({data['reason']})" if data["reason"] else ""
            return f"trial {number} {data['state']}{nme}{reason}; {summary_line(self._records())}"
        if event.kind is EventKind.TRIAL_INTERRUPTED:
            return f"trial {number} interrupted"
        return None

    def _render(self) -> Group:
        records = self._records()
        room = max(5, self._console.size.height - 8)
        running = [r for r in records if not r.state.finished]
        finished = [r for r in rank(records) if r.state.finished]
        shown = running + finished[: max(0, room - len(running))]
        hidden = len(records) - len(shown)
        foot = Text(self._status(records) + (f"; {hidden} more trials not shown" if hidden else ""))
        return Group(results_table(self._config, shown, self._speeds, title=f"sweep {self._config.name}"), foot)

    def _status(self, records: list[TrialRecord]) -> str:
        behind = self._lag()
        late = f"; MLflow {behind} events behind" if behind > 20 else ""
        return f"{summary_line(records)}; {self._time_left(records)}{late}"

    def _time_left(self, records: list[TrialRecord]) -> str:
        """From the mean time of what is finished, and for those that run the part that is done."""
        finished = [r.seconds for r in records if r.state.finished and r.seconds > 0]
        if not finished:
            return "time left unknown yet"
        left = []
        if self._config.trials is not None:
            mean = sum(finished) / len(finished)
            done = sum(min(1.0, r.epochs / self._config.train.optim.epochs) for r in records if not r.state.finished)
            left.append(
                (self._config.trials - sum(r.state.finished for r in records) - done) * mean / max(1, self._slots())
            )
        if self._config.epochs is not None:
            spent, seconds = sum(r.epochs for r in records), sum(r.seconds for r in records)
            left.append((self._config.epochs - spent) * seconds / max(1, spent) / max(1, self._slots()))
        if not left:
            return "until the time is up"
        return f"about {format_seconds(max(0.0, min(left)))} left"


def results_table(
    config: SweepConfig, records: list[TrialRecord], speeds: dict[int, float] | None = None, title: str | None = None
) -> Table:
    """Trials as a table: trial, state, epoch, the searched parameters, best NME and, where known, images/s."""
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column("epoch", justify="right")
    keys = [d.key for d in config.dimensions]
    for key in keys:
        table.add_column(short_name(key), justify="right")
    table.add_column("best NME", justify="right")
    if speeds is not None:
        table.add_column("images/s", justify="right")
    winner = best(records)
    for r in records:
        cells: list[Any] = [str(r.number), Text(r.state.value, style=_STYLES[r.state])]
        cells.append(f"{r.epochs}/{config.train.optim.epochs}")
        cells += [format_value(r.params[key]) if key in r.params else "-" for key in keys]
        nme = "-" if r.best_nme is None else f"{r.best_nme:.2%}"
        cells.append(Text(nme, style="bold green" if winner and r.number == winner.number else ""))
        if speeds is not None:
            cells.append(f"{speeds[r.number]:.0f}" if r.number in speeds else "-")
        table.add_row(*cells)
    return table


class Outlet:
    """Standard output for as long as somebody takes it: a closed terminal or pipe must not end a sweep."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # what lies in its buffer goes there too, at the end
            os.close(nowhere)

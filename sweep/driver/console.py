"""The output of a running sweep: a live table on a terminal, elsewhere a line per event."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.analysis.leaderboard import nme_text, summary_line, value_texts
from sweep.analysis.time_forecast import Outlook
from sweep.core.config import SweepConfig
from sweep.core.formatting import format_params, short_name
from sweep.core.trial import Progress, State, TrialRecord, share_of_epoch
from sweep.search.ranking import best, rank
from sweep.storage.event_log import Event, EventKind
from trainer.pulse import Pulse

_MAX_NAMED = 4  # trials in one line


class Board:
    """Shows the sweep; a context manager, whose `handle` is called with every event.

    Args:
        config: the sweep.
        records: returns all trials.
        lag: returns the number of events that MLflow lacks.
        progress: returns the progress of trials within their epochs, by number.
        outlook: forecasts the remaining time.
        console: where to print.
    """

    def __init__(
        self,
        config: SweepConfig,
        records: Callable[[], list[TrialRecord]],
        lag: Callable[[], int],
        progress: Callable[[list[int]], dict[int, Progress]],
        outlook: Outlook,
        console: Console,
    ) -> None:
        self._config, self._records, self._lag, self._progress = config, records, lag, progress
        self._outlook, self._console = outlook, console
        self._speeds: dict[int, float] = {}
        self._looked = -math.inf
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)
        self._pulse = Pulse(self._say, self._pulse_line)

    def __enter__(self) -> Board:
        self._say(f"sweep {self._config.name}: {self._outlook.at_start(self._records())}")
        if self._console.is_terminal:
            self._live.start()
        else:
            self._pulse.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        else:
            self._pulse.__exit__(kind, error, trace)

    def handle(self, event: Event) -> None:
        """Shows one event."""
        if event.kind is EventKind.REPORT and event.trial is not None:
            self._speeds[event.trial] = event.data["metrics"]["images_per_second"]
            self._outlook.report(event.data["metrics"]["epoch_seconds"])
        if not self._console.is_terminal and (line := self._line(event)):
            self._say(line)
            self._pulse.rest()

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)

    def _look(self, records: list[TrialRecord]) -> None:
        """Updates the progress of trials, at most once a second."""
        if time.monotonic() - self._looked >= 1.0:
            self._outlook.look(self._progress([r.number for r in records if r.state is State.RUNNING]))
            self._looked = time.monotonic()

    def _pulse_line(self) -> str:
        """The state of the sweep, for when there was no event for a while."""
        records = self._records()
        self._look(records)
        running = [r for r in records if r.state is State.RUNNING]
        told = [f"trial {r.number} {self._epoch(r)}" for r in running[:_MAX_NAMED]]
        told += [f"{len(running) - _MAX_NAMED} more"] if len(running) > _MAX_NAMED else []
        return f"{', '.join(told)}; {self._status(records)}" if told else self._status(records)

    def _epoch(self, record: TrialRecord) -> str:
        """Such as 'epoch 3/8 at 40%'."""
        epochs = self._config.train.optim.epochs
        if share := share_of_epoch(record, self._outlook.running):
            return f"epoch {record.epochs + 1}/{epochs} at {share:.0%}"
        return f"after epoch {record.epochs}/{epochs}" if record.epochs else "starting"

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
        self._look(records)
        room = max(5, self._console.size.height - 8)
        running = [r for r in records if not r.state.finished]
        finished = [r for r in rank(records) if r.state.finished]
        shown = running + finished[: max(0, room - len(running))]
        hidden = len(records) - len(shown)
        foot = Text(self._status(records) + (f"; {hidden} more trials not shown" if hidden else ""))
        title = f"sweep {self._config.name}"
        return Group(results_table(self._config, shown, self._speeds, self._outlook.running, title=title), foot)

    def _status(self, records: list[TrialRecord]) -> str:
        behind = self._lag()
        late = f"; MLflow {behind} events behind" if behind > 20 else ""
        return f"{summary_line(records)}; {self._outlook.left_text(records)}{late}"


@contextlib.contextmanager
def doing(console: Console, text: str) -> Iterator[None]:
    """Shows that work is going on: a spinner on a terminal, elsewhere a line every half minute."""
    with console.status(text) if console.is_terminal else Pulse(console.print, lambda: f"still {text}"):
        yield


def results_table(
    config: SweepConfig,
    records: list[TrialRecord],
    speeds: Mapping[int, float] | None = None,
    running: Mapping[int, Progress] | None = None,
    title: str | None = None,
) -> Table:
    """A table of trials: number, state, epoch, searched parameters, best NME and, if given, images/s."""
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
        cells: list[Any] = [str(r.number), Text(r.state.value, style=r.state.traits.style)]
        share = share_of_epoch(r, running or {})
        cells.append(f"{r.epochs}/{config.train.optim.epochs}" + (f" +{share:.0%}" if share else ""))
        cells += value_texts(r, keys)
        cells.append(Text(nme_text(r), style="bold green" if winner and r.number == winner.number else ""))
        if speeds is not None:
            cells.append(f"{speeds[r.number]:.0f}" if r.number in speeds else "-")
        table.add_row(*cells)
    return table


class BrokenPipeSafeStream:
    """Standard output that discards everything once the terminal or pipe is closed, which must not end a sweep."""

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
            os.dup2(nowhere, self._stream.fileno())  # its buffer is flushed there at exit
            os.close(nowhere)

"""What a sweep shows while it runs, on a terminal and elsewhere."""

import io

import pytest
import yaml
from rich.console import Console
from told_trials import RECORDS, record

from sweep.analysis.time_forecast import Outlook
from sweep.core.config_file import load_sweep
from sweep.core.trial import Progress
from sweep.driver import console as module
from sweep.driver.console import Board, doing, results_table
from sweep.storage.event_log import Event, EventKind
from trainer.pulse import Pulse


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "faces.yaml"
    space = {"optim.lr": {"log_uniform": [1e-4, 1.0]}, "loss.star_weight": {"uniform": [0, 10]}}
    settings = {"space": space, "train": {"optim": {"epochs": 2}}, "trials": 12}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return load_sweep(path, {"output": str(tmp_path / "out")})


class TwoSlots:
    last = 2


def board(config, records, console, *, lag=0, progress=None, epoch_seconds=None) -> Board:
    outlook = Outlook(config, TwoSlots(), epoch_seconds)
    return Board(config, lambda: records, lambda: lag, lambda numbers: progress or {}, outlook, console)


def shown(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def test_the_results_table_shows_what_was_searched(config):
    text = shown(results_table(config, RECORDS, {4: 123.4}, title="sweep faces"))
    for word in ("sweep faces", "trial", "state", "epoch", "lr", "star_weight", "best NME", "images/s"):
        assert word in text
    line = next(line for line in text.splitlines() if " 4 " in line and "COMPLETE" in line)
    assert [cell for cell in line.replace("│", " ").split() if cell] == [
        *("4", "COMPLETE", "2/2", "0.005", "0.5", "10.00%", "123")
    ]
    assert "images/s" not in shown(results_table(config, RECORDS))


def test_the_table_shows_how_much_of_its_epoch_a_trial_has_behind_it(config):
    running = {5: Progress(2, 0.42, 3.0), 9: Progress(4, 0.5, 1.0)}  # what is told of trial 9 is of an earlier attempt
    lines = shown(results_table(config, RECORDS, {}, running)).splitlines()
    assert "1/2 +42%" in next(line for line in lines if " 5 " in line and "RUNNING" in line)
    assert "%" not in next(line for line in lines if " 9 " in line and "RUNNING" in line)


def metrics(**more) -> dict:
    return {"train/loss": 1.5, "val/nme": 0.2, "best_nme": 0.1, "images_per_second": 99.6, "epoch_seconds": 1.0, **more}


EVENTS = [
    Event(EventKind.TRIAL_STARTED, 1, {"params": {"optim.lr": 2e-3, "loss.star_weight": 0.5}, "config": {}}),
    Event(EventKind.TRIAL_STARTED, 1, {"params": {"optim.lr": 2e-3}, "config": {}, "attempt": 1}),
    Event(EventKind.REPORT, 1, {"step": 2, "metrics": metrics()}),
    Event(EventKind.TRIAL_ENDED, 1, {"state": "COMPLETE", "reason": None, "best_nme": 0.1}),
    Event(EventKind.TRIAL_ENDED, 2, {"state": "FAILED", "reason": "disk full", "best_nme": None}),
    Event(EventKind.TRIAL_INTERRUPTED, 5),
]


def test_elsewhere_than_on_a_terminal_every_event_is_a_line(config):
    console = Console(file=io.StringIO())
    with board(config, RECORDS[:2], console, epoch_seconds=30.0) as shows:
        for event in EVENTS:
            shows.handle(event)
        shows.handle(Event(EventKind.SWEEP_STARTED, None, {"name": "x", "tags": {}, "config": {}}))
    summary = "2 trials: 1 complete, 1 pruned; best val NME 20.00% (trial 1)"
    first, *lines = console.file.getvalue().splitlines()
    assert first.startswith("sweep faces: 12 trials, of which 2 have begun, about ")
    assert lines == [
        "trial 1 started: lr=0.002 star_weight=0.5",
        "trial 1 started: lr=0.002, attempt 2",
        "trial 1 epoch 2/2: loss 1.5000, val NME 20.00%, best 10.00%, 100 images/s",
        f"trial 1 COMPLETE with best val NME 10.00%; {summary}",
        f"trial 2 FAILED (disk full); {summary}",
        "trial 5 interrupted",
    ]


def test_where_nothing_happens_it_is_said_what_goes_on(config, monkeypatch):
    monkeypatch.setattr(module, "Pulse", lambda say, text: Pulse(say, text, pause=0.05))
    running = [record(n, "RUNNING", *[0.3] * (n % 2)) for n in range(6)]
    console = Console(file=io.StringIO())
    with board(config, running, console, progress={0: Progress(1, 0.25, 5.0), 1: Progress(2, 0.5, 10.0)}):
        while len(console.file.getvalue().splitlines()) < 3:
            pass
    start, line, *_ = console.file.getvalue().splitlines()
    assert start.startswith("sweep faces: 12 trials, of which 6 have begun")
    told = ["epoch 1/2 at 25%", "epoch 2/2 at 50%", "starting", "after epoch 1/2"]
    assert line.startswith(", ".join(f"trial {n} {text}" for n, text in enumerate(told)) + ", 2 more; 6 trials")
    assert line.endswith("left")
    assert "about" in line


def test_work_without_a_table_is_told_as_well(monkeypatch):
    monkeypatch.setattr(module, "Pulse", lambda say, text: Pulse(say, text, pause=0.05))
    console = Console(file=io.StringIO())
    with doing(console, "preparing faces"):
        while not console.file.getvalue():
            pass
    assert console.file.getvalue().splitlines()[0] == "still preparing faces"


@pytest.mark.parametrize(("width", "height"), [(160, 50), (80, 24), (30, 6)])
@pytest.mark.parametrize("records", [[], RECORDS[:1], RECORDS, [record(n, "RUNNING") for n in range(30)]])
def test_on_a_terminal_it_is_one_table(records, width, height, config):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    with board(config, records, console, lag=25) as shows:
        for event in EVENTS:
            shows.handle(event)
        console.print(shows._render())
    text = console.file.getvalue()
    assert "started" not in text
    if width > 100:
        assert "MLflow 25 events behind" in text
        assert "left" in text


def test_what_does_not_fit_on_the_terminal_is_counted(config):
    records = [record(n, "COMPLETE", 0.1) for n in range(30)] + [record(30, "RUNNING")]
    console = Console(file=io.StringIO(), force_terminal=True, width=160, height=20)
    console.print(board(config, records, console)._render())
    text = console.file.getvalue()
    assert "19 more trials not shown" in text
    assert "RUNNING" in text

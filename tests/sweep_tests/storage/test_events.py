"""The event log keeps what was acknowledged, whatever happens to the writer."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.storage.event_log import Event, EventKind, EventLog, read_events


def report(trial=0, step=1, **metrics):
    return Event(EventKind.REPORT, trial, {"step": step, "metrics": metrics or {"val/nme": 0.1}})


def test_every_kind_comes_back_as_it_went_in(tmp_path):
    events = [
        Event(
            EventKind.SWEEP_STARTED,
            None,
            {"name": "demo", "tags": {"é": "NaN"}, "config": {"a": [1, {"b": None}]}},
            1.5,
        ),
        Event(
            EventKind.TRIAL_STARTED, 3, {"params": {"optim.lr": 1e-3}, "config": {"optim": {"lr": 1e-3}}, "attempt": 2}
        ),
        report(3, 1, **{"val/nme": 0.0584, "lr": 1 / 3}),
        Event(EventKind.TRIAL_INTERRUPTED, 3),
        Event(EventKind.TRIAL_ENDED, 3, {"state": "PRUNED", "reason": None, "best_nme": 0.1}),
        Event(
            EventKind.SWEEP_ENDED, None, {"state": "KILLED", "summary": "# a\nb", "best_trial": None, "artifacts": []}
        ),
    ]
    with EventLog(tmp_path / "new" / "events.jsonl") as log:
        for event in events:
            log.append(event)
            assert list(log.read())[-1][0] == event  # acknowledged means readable
        pairs = list(log.read())
    assert [event for event, _ in pairs] == events
    assert pairs[-1][1] == log.path.stat().st_size
    assert [event for event, _ in read_events(log.path, pairs[2][1])] == events[3:]
    assert next(read_events(log.path))[0].data["tags"] == {"é": "NaN"}  # a text stays a text


def test_non_finite_numbers_are_strict_json_and_come_back(tmp_path):
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append(report(0, 1, a=math.nan, b=math.inf, c=-math.inf, d=0.1))
        log.append(Event(EventKind.TRIAL_ENDED, 0, {"state": "DIVERGED", "reason": "nan", "best_nme": math.inf}))

    def refuse(token):
        raise AssertionError(token)

    for line in log.path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    (first, _), (second, _) = read_events(log.path)
    metrics = first.data["metrics"]
    assert math.isnan(metrics["a"])
    assert (metrics["b"], metrics["c"], metrics["d"]) == (math.inf, -math.inf, 0.1)
    assert second.data["best_nme"] == math.inf


@pytest.mark.parametrize("torn", [b'{"event":"rep', b"\0\0\0", b'{"event":"report","time":1}'])
def test_a_torn_tail_is_not_read_and_is_cut_off_at_opening(tmp_path, torn):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append(report(0, 1))
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert len(list(read_events(path))) == 1
    assert path.read_bytes() == whole + torn  # a reader changes nothing: the driver may be writing
    with EventLog(path) as log:
        assert path.read_bytes() == whole
        log.append(report(0, 2))
        assert [event.data["step"] for event, _ in log.read()] == [1, 2]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"event"')
    with EventLog(path) as log:
        assert list(log.read()) == []
    assert path.stat().st_size == 0


@pytest.mark.parametrize(
    "bad", ["not json", "[]", '{"event":"lunch","time":1}', '{"event":"report","time":1,"trial":0}']
)
def test_a_corrupt_line_names_file_and_line(tmp_path, bad):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append(report(0, 1))
        log.append(report(0, 2))
        start = path.stat().st_size
    good = path.read_text()
    path.write_text(good + bad + "\n" + good)
    for offset in (0, start):
        with pytest.raises(ValueError, match=r"events\.jsonl, line 3"):
            list(read_events(path, offset))


@pytest.mark.parametrize(
    ("kind", "trial", "data", "message"),
    [
        (EventKind.REPORT, 0, {"step": 1}, "metrics"),
        (EventKind.REPORT, None, {"step": 1, "metrics": {}}, "trial"),
        (EventKind.SWEEP_STARTED, 1, {"name": "a", "tags": {}, "config": {}}, "trial"),
        (EventKind.TRIAL_ENDED, 1, {"state": "DONE", "reason": None, "best_nme": None}, "DONE"),
        (EventKind.TRIAL_INTERRUPTED, 1, {"time": 3}, "time"),
    ],
)
def test_an_event_that_lacks_something_is_refused(kind, trial, data, message):
    with pytest.raises(ValueError, match=message):
        Event(kind, trial, data)


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    real = os.write
    with EventLog(tmp_path / "events.jsonl") as log:
        log.append(report(0, 1))
        monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:5]))
        with pytest.raises(OSError, match="disk full"):
            log.append(report(0, 2))
        monkeypatch.setattr(os, "write", real)
        log.append(report(0, 3))
        assert [event.data["step"] for event, _ in log.read()] == [1, 3]


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path):
    path = tmp_path / "events.jsonl"
    script = (
        "import sys; from pathlib import Path; from sweep.storage.event_log import *\n"
        "log = EventLog(Path(sys.argv[1]))\n"
        "for step in range(10**9):\n"
        "    log.append(Event(EventKind.REPORT, 0, {'step': step, 'metrics': {'a': 1.0}})); print(step, flush=True)\n"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    for _ in range(200):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    acknowledged = 199 + len([line for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")])
    process.wait()
    process.stdout.close()
    with EventLog(path) as log:
        steps = [event.data["step"] for event, _ in log.read()]
    assert steps == list(range(len(steps)))
    assert len(steps) > acknowledged

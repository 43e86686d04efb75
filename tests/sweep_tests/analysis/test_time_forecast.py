"""The time that is left: from what was known beforehand, from parts of epochs, and from epochs that came."""

import pytest
from told_trials import record

from sweep.analysis import time_forecast
from sweep.analysis.time_forecast import Outlook
from sweep.core.config_file import load_sweep
from sweep.core.trial import Progress


class Slots:
    def __init__(self, count: int) -> None:
        self.last = count


def looked_at(epoch_seconds: float | None = None, slots: int = 2, **settings: object) -> Outlook:
    plain = {"pruner.name": "none", "repeats.share": 0, "trials": 12, "train.optim.epochs": 10}
    config = load_sweep(None, {key: str(value) for key, value in (plain | settings).items()})
    return Outlook(config, Slots(slots), epoch_seconds)


END = time_forecast._ENDING


def test_what_is_known_beforehand_gives_the_whole_time() -> None:
    assert looked_at(3.0).left([]) == 12 * 10 * 3.0 / 2 + END
    assert looked_at(3.0, slots=5).left([]) == 3 * 10 * 3.0 + END  # twelve on five: three after one another
    assert looked_at(3.0).at_start([]) == "12 trials, about 3 min on this machine"


def test_without_it_parts_of_epochs_do_and_before_these_nothing_is_promised() -> None:
    outlook = looked_at()
    running = [record(0, "RUNNING"), record(1, "RUNNING")]
    assert outlook.left(running) is None
    assert outlook.left_text(running) == "time left unknown yet"
    assert outlook.at_start([]) == "12 trials; how long they take is said when the first batches are through"
    outlook.look({0: Progress(1, 0.5, 5.0), 1: Progress(1, 0.5, 15.0)})  # ten and thirty seconds an epoch
    outlook._due = 0.0
    assert outlook.left(running) == pytest.approx((12 * 10 - 1) / 2 * 20.0 + END)


def test_epochs_that_came_count_more_than_what_was_thought_beforehand() -> None:
    outlook = looked_at(1.0)
    for _ in range(20):
        outlook.report(10.0)
    assert outlook.epoch_seconds == pytest.approx(10.0, rel=0.03)


def test_what_is_done_is_not_left() -> None:
    outlook = looked_at(1.0)
    records = [record(n, "COMPLETE", *[0.1] * 10) for n in range(10)] + [
        record(n, "RUNNING", *[0.1] * 6) for n in (10, 11)
    ]
    assert outlook.left(records) == pytest.approx(4.0 + END)
    assert outlook.left_text(records) == "about 14 s left"


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"hours": 0.01}, 36.0),
        ({"device_hours": 0.02}, 36.0),  # on two devices
        ({"epochs": 30}, 15.0),
        ({"trials": "null", "epochs": 40}, 20.0),
        ({"trials": "null", "hours": 0.01}, 36.0),
    ],
)
def test_the_budget_that_ends_first_counts(settings: dict[str, object], seconds: float) -> None:
    assert looked_at(1.0, **settings).left([]) == pytest.approx(seconds + END, abs=1.0)


def test_the_limits_are_told() -> None:
    text = looked_at(trials="null", hours=2).at_start([])
    assert text == "trials, at most 2 hours, about 2 h 00 min on this machine"

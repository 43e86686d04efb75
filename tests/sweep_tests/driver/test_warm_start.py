"""Warm start: what the best trials of an earlier sweep hand on to a new one."""

import pytest
import yaml
from harness import TINY
from written_sweeps import write_sweep

from sweep.analysis.warm_start import warmed
from sweep.core.config_file import load_sweep
from sweep.core.trial import State
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind, EventLog
from trainer.errors import ConfigError

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

SPACE = {"loss.star_weight": {"log_uniform": [0.01, 100]}, "optim.lr": {"log_uniform": [1e-4, 1e-2]}}
TRIALS = [
    ({"loss.star_weight": 1.0, "optim.lr": 1e-3}, [0.3, 0.2], State.COMPLETE),
    ({"loss.star_weight": 2.0, "optim.lr": 2e-3}, [0.3, 0.1], State.COMPLETE),
    ({"loss.star_weight": 3.0, "optim.lr": 3e-3}, [0.05], State.PRUNED),
    ({"loss.star_weight": 4.0, "optim.lr": 4e-3}, [0.3, 0.15], State.COMPLETE),
    ({"loss.star_weight": 50.0, "optim.lr": 9e-3}, [0.3, 0.12], State.COMPLETE),
]
BEST = [{"loss.star_weight": w, "optim.lr": lr} for w, lr in ((2.0, 2e-3), (50.0, 9e-3), (4.0, 4e-3))]


def make(output, **changes):
    """The config of a new sweep beside an earlier one called told."""
    tree = {"name": "new", "space": SPACE, "train": TINY, "warm_start": ["told"], "output": str(output)}
    output.mkdir(exist_ok=True)
    path = output / "new.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return load_sweep(path, {})


@pytest.fixture
def output(tmp_path):
    write_sweep(tmp_path / "out", SPACE, TRIALS)
    return tmp_path / "out"


def test_the_three_best_complete_trials_are_tried_first_best_first(output):
    config = warmed(make(output))
    assert config.known == BEST
    study = Study.in_memory(config)
    assert [study.ask().params for _ in range(3)] == BEST


def test_without_a_warm_start_nothing_changes(output):
    config = make(output, warm_start=[])
    assert warmed(config) is config


def test_known_configurations_come_before_and_none_twice(output):
    own = {"loss.star_weight": 7.0, "optim.lr": 7e-3}
    assert warmed(make(output, known=[own, BEST[1]])).known == [own, BEST[1], BEST[0], BEST[2]]


def test_a_folder_is_as_good_as_a_name(output, tmp_path):
    assert warmed(make(tmp_path / "elsewhere", warm_start=[str(output / "told")])).known == BEST


def test_what_is_not_searched_here_is_left_out(output):
    space = {"optim.lr": SPACE["optim.lr"], "optim.weight_decay": {"log_uniform": [1e-6, 1e-2]}}
    assert warmed(make(output, space=space)).known == [{"optim.lr": b["optim.lr"]} for b in BEST]


def test_what_lies_outside_of_the_space_is_passed_over(output):
    narrow = SPACE | {"loss.star_weight": {"log_uniform": [0.1, 10]}}
    first = {"loss.star_weight": 1.0, "optim.lr": 1e-3}
    assert warmed(make(output, space=narrow)).known == [BEST[0], BEST[2], first]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warm_start": ["tolt"]}, "tolt: no sweep of this name in "),
        (
            {"space": {"optim.weight_decay": {"log_uniform": [1e-6, 1e-2]}}},
            "warm_start: told: nothing of it fits this sweep (none of its parameters is searched here)",
        ),
        (
            {"space": {"optim.lr": {"log_uniform": [1e-8, 1e-7]}}},
            "warm_start: told: nothing of it fits this sweep (trial 0: optim.lr = 0.001 is outside of the space",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, message, output):
    with pytest.raises(ConfigError) as refusal:
        warmed(make(output, **changes))
    assert str(refusal.value).startswith(message)


def test_a_sweep_without_a_complete_trial_is_refused(tmp_path):
    write_sweep(tmp_path / "out", SPACE, TRIALS[2:3])
    with pytest.raises(ConfigError, match=r"nothing of it fits this sweep \(no complete trial\)"):
        warmed(make(tmp_path / "out"))


def test_a_sweep_that_has_begun_keeps_what_it_began_with(output):
    begun = warmed(make(output))
    begun.folder.mkdir()
    begun.dump(begun.folder / "sweep.yaml")
    with EventLog(begun.folder / "events.jsonl") as log:
        log.append(Event(EventKind.SWEEP_STARTED, None, {"name": "new", "tags": {}, "config": begun.tree()}))
    better = ({"loss.star_weight": 9.0, "optim.lr": 5e-3}, [0.3, 0.01], State.COMPLETE)
    write_sweep(output, SPACE, [*TRIALS, better])
    assert warmed(make(output)).known == BEST
    assert warmed(make(output, name="newer")).known[0] == better[0]

"""What a free slot does next, on records made by hand and in whole sweeps of made-up trials."""

import random
from collections import Counter
from dataclasses import replace

import optuna
import pytest
from harness import MemoryLog
from optuna.storages import InMemoryStorage

from sweep.core.config import SweepConfig
from sweep.core.sections import RepeatsConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.budget import device_hours
from sweep.search.controller import SweepController
from sweep.search.rungs import ladder, next_rung
from sweep.search.scheduler import Action, next_action, worst_paused
from sweep.search.study import Study
from sweep.storage.event_log import Event, EventKind

EPOCHS = 9  # with rungs at 1 and 3
COMPLETE, PAUSED, PRUNED, RUNNING = State.COMPLETE, State.PAUSED, State.PRUNED, State.RUNNING


def make_config(**changes) -> SweepConfig:
    tree = {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}},
        "sampler": {"name": "random", "startup_trials": 1},
        "pruner": {"name": "successive_halving", "min_epochs": 1, "reduction": 3},
        "train": {"optim": {"epochs": EPOCHS}},
    }
    return SweepConfig(**{**tree, **changes})


def trial(number: int, nme: float = 0.1, epochs: int = 1, state: State = PAUSED, **rest) -> TrialRecord:
    curve = dict.fromkeys(range(1, epochs + 1), nme)
    return TrialRecord(number, {"optim.lr": 1e-3 + number * 1e-6}, state, curve, **rest)


def complete(number: int, nme: float = 0.1, **rest) -> TrialRecord:
    return trial(number, nme, EPOCHS, COMPLETE, **rest)


def pruned(first: int, last: int) -> list[TrialRecord]:
    return [trial(number, 0.5, 1, PRUNED) for number in range(first, last)]


# One decision


def test_the_first_step_is_a_new_trial():
    assert next_action(make_config(), [], (), 0.0) == Action("new")


def test_each_stretch_between_rungs_gets_as_many_epochs():
    """New trials cost one epoch, the next stretch two, the last one six; of the first design half counts."""
    assert next_action(make_config(), [trial(0, 0.3)], (), 0.0) == Action("new")  # 1.5 epochs of new ones, then 2
    records = [trial(0, 0.3), trial(1, 0.1)]
    assert next_action(make_config(), records, (), 0.0) == Action("resume", 1)  # 2.5 and 2
    records[1] = trial(1, 0.1, 2, RUNNING)
    assert next_action(make_config(), records, {1}, 0.0) == Action("new")  # 2.5 and 4: who runs counts
    records[1] = trial(1, 0.1, 3)
    assert next_action(make_config(), [*records, *pruned(2, 4)], (), 0.0) == Action("resume", 0)  # 4.5, 4 and 6
    records[0] = trial(0, 0.3, 1, PRUNED)
    assert next_action(make_config(), [*records, *pruned(2, 4)], (), 0.0) == Action("new")  # nobody waits for the 4
    assert next_action(make_config(), [*records, *pruned(2, 6)], (), 0.0) == Action("resume", 1)  # 6.5 and 6


def test_what_the_first_design_takes_counts_half():
    config = make_config(sampler={"startup_trials": 4})
    records = [trial(n, 0.1) for n in range(4)]
    assert next_action(config, records, (), 0.0) == Action("resume", 0)  # 3 and 2
    records[0] = trial(0, 0.1, 2, RUNNING)
    assert next_action(config, records, {0}, 0.0) == Action("new")  # 3 and 4


def test_stopped_and_running_trials_are_rivals_too():
    records = [trial(0, 0.2), trial(1, 0.1, 2, RUNNING), trial(2, 0.3, 1, PRUNED)]
    assert next_action(make_config(), records, {1}, 0.0) == Action("new")
    records += [trial(n, 0.4, 1, PRUNED) for n in (3, 4, 5)]
    assert next_action(make_config(), records, {1}, 0.0) == Action("resume", 0)


def test_whoever_has_come_further_goes_first():
    records = [trial(0, 0.01), *pruned(1, 6), trial(6, 0.3, 3), *(trial(n, 0.4, 3, PRUNED) for n in (7, 8))]
    assert next_action(make_config(), records, (), 0.0) == Action("resume", 6)
    assert next_action(make_config(), records[:6], (), 0.0) == Action("resume", 0)


def test_of_trials_with_the_same_nme_the_older_goes_first():
    records = [trial(n, 0.1) for n in range(6)]
    assert next_action(make_config(), records, (), 0.0) == Action("resume", 0)


def test_a_running_trial_is_not_resumed():
    records = [trial(0, 0.1, 1, RUNNING), trial(1, 0.2), trial(2, 0.3)]
    assert next_action(make_config(), records, {0}, 0.0) == Action("new")


def test_stopped_for_good_is_never_resumed():
    records = [trial(0, 0.1, 1, PRUNED), *(trial(n, 0.9) for n in range(1, 3))]
    assert next_action(make_config(), records, (), 0.0) == Action("resume", 1)


def kind(step: Action | None) -> str | None:
    return step and step.kind


def twice(number: int, of: int, nme: float = 0.1) -> TrialRecord:
    """A repeat, which tells how large the noise is."""
    return complete(number, nme, replicate_of=of)


@pytest.mark.parametrize(("count", "expected"), [(5, "new"), (7, "repeat"), (9, "repeat"), (10, None)])
def test_where_as_much_is_left_for_the_search_as_for_repeats_the_best_is_repeated(count, expected):
    records = [complete(0, 0.2), complete(1, 0.1), *pruned(2, count)]
    step = next_action(make_config(trials=10, repeats={"candidates": 2}), records, (), 0.0)
    assert kind(step) == expected


@pytest.mark.parametrize(("count", "expected"), [(8, "new"), (9, "repeat"), (10, None)])
def test_the_rest_of_the_last_fifth_are_repeats_where_noise_hides_which_is_best(count, expected):
    records = [complete(0, 0.105), complete(1, 0.1), twice(2, 1, 0.11), *pruned(3, count)]
    step = next_action(make_config(trials=10, repeats={"candidates": 2}), records, (), 0.0)
    assert (step and step.kind) == expected
    if expected == "repeat":
        assert step == Action("repeat", 0, 1)


@pytest.mark.parametrize(
    ("budget", "others", "hours"),
    [({"trials": 10}, 6, 0.0), ({"trials": None, "epochs": 100}, 63, 0.0), ({"trials": None, "hours": 10.0}, 6, 9.0)],
    ids=["trials", "epochs", "hours"],
)
def test_where_noise_hides_nothing_the_search_goes_on_with_the_whole_budget(budget, others, hours):
    config = make_config(**budget, repeats={"candidates": 2})
    records = [complete(0, 0.2), complete(1, 0.1), twice(2, 1), *pruned(3, 3 + others)]
    assert next_action(config, records, (), hours) == Action("new")
    assert next_action(config, [complete(0, 0.1), *records[1:]], (), hours) == Action("repeat", 0, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"repeats": {"share": 0.0}},
        {"objectives": ["nme", "fr10"]},
        {"sampler": {"name": "grid"}, "space": {"optim.batch_size": {"int": [1, 64]}}},
    ],
    ids=["no_share", "two_objectives", "grid"],
)
def test_without_a_share_for_repeats_all_trials_are_new(changes):
    config = make_config(trials=10, **changes)
    records = [complete(0, 0.2), complete(1, 0.1), *pruned(2, 9)]
    assert next_action(config, records, (), 0.0) == Action("new")
    assert next_action(config, [*records, *pruned(9, 10)], (), 0.0) is None


def test_where_only_one_trial_is_complete_at_last_the_search_goes_on_with_the_rest():
    config = make_config(trials=10, repeats={"candidates": 2})
    assert next_action(config, [complete(0), *pruned(1, 9)], (), 0.0) == Action("new")
    assert next_action(config, [complete(0), *pruned(1, 8), trial(8, state=RUNNING)], (8,), 0.0) is None
    assert next_action(config, [complete(0), *pruned(1, 10)], (), 0.0) is None
    assert next_action(config, [complete(0), *pruned(1, 9), complete(9)], (), 0.0) is None
    assert next_action(config, [complete(0, 0.1), *pruned(1, 8), complete(8, 0.2)], (), 0.0) == Action("repeat", 0, 1)


@pytest.mark.parametrize(
    ("budget", "candidates", "kind"),
    [
        ({"trials": 14}, 3, "new"),  # a fifth are two
        ({"trials": 15}, 3, "repeat"),
        ({"trials": None, "epochs": 134}, 3, "new"),  # a fifth are less than three whole trainings
        ({"trials": None, "epochs": 135}, 3, "repeat"),
        ({"trials": None, "epochs": 134}, 2, "repeat"),
        ({"trials": 14, "epochs": 1000}, 3, "new"),
        ({"trials": 1000, "epochs": 134}, 3, "new"),
    ],
)
def test_a_budget_too_small_for_a_run_of_each_candidate_is_all_for_the_search(budget, candidates, kind):
    config = make_config(**budget, repeats={"candidates": candidates})
    spent = 12 if (config.trials or 1000) < 100 else 92
    records = [complete(0), complete(1), *pruned(2, spent)]
    assert next_action(config, records, (), 0.0).kind == kind


def test_the_seed_of_a_repeat_counts_from_the_sweeps():
    train = {"optim": {"epochs": EPOCHS}, "run": {"seed": 40}}
    config = make_config(trials=10, train=train, repeats={"candidates": 2})
    records = [complete(0, 0.2), complete(1, 0.1), *pruned(2, 8)]
    assert next_action(config, records, (), 0.0) == Action("repeat", 1, 41)


@pytest.mark.parametrize(
    ("hours", "first", "then"),
    [(0.0, "new", "new"), (5.99, "new", "new"), (6.01, "repeat", "new"), (7.99, "repeat", "new")]
    + [(8.0, "repeat", "repeat"), (9.99, "repeat", "repeat"), (10.0, None, None)],
)
def test_the_last_fifth_of_the_time_is_for_repeats_and_the_first_comes_before_it(hours, first, then):
    config = make_config(trials=None, hours=10.0)
    records = [complete(0), complete(1)]
    assert kind(next_action(config, records, (), hours)) == first
    assert kind(next_action(config, [*records, twice(2, 0)], (), hours)) == then


@pytest.mark.parametrize(
    ("seconds", "first", "then"),
    [(2.99, "new", "new"), (3.01, "repeat", "new"), (4.0, "repeat", "repeat"), (4.99, "repeat", "repeat")]
    + [(5.0, None, None)],
)
@pytest.mark.parametrize("gpus", [0.0, 2.0])
def test_the_last_fifth_of_the_device_hours_is_for_repeats(seconds, first, then, gpus):
    config = make_config(trials=None, device_hours=10.0, resources={"gpus": gpus})
    each = seconds * 3600 / (gpus or 1.0)
    records = [complete(0, seconds=each), complete(1, seconds=each)]
    assert kind(next_action(config, records, (), 0.0)) == first
    assert kind(next_action(config, [*records, twice(2, 0)], (), 0.0)) == then


@pytest.mark.parametrize(("gpus", "expected"), [(0.0, 3.0), (1.0, 3.0), (0.25, 0.75), (4.0, 12.0)])
def test_device_hours_are_training_time_by_gpus(gpus, expected):
    config = make_config(resources={"gpus": gpus})
    records = [trial(0, seconds=3600.0), trial(1, seconds=1800.0), complete(2, seconds=5400.0), trial(3)]
    assert device_hours(config, records) == pytest.approx(expected)


def test_the_share_of_the_epochs_is_for_repeats():
    config = make_config(trials=None, epochs=50, repeats={"share": 0.4, "candidates": 2})
    records = [complete(0), complete(1), twice(2, 0), *pruned(3, 14)]  # 38 epochs, of which 9 are a repeat
    assert next_action(config, records, (), 0.0) == Action("new")
    assert next_action(config, [*records, *pruned(14, 15)], (), 0.0) == Action("repeat", 1, 1)
    assert next_action(config, [*records, *pruned(14, 17)], (), 0.0) == Action("repeat", 1, 1)  # ends with the last
    assert next_action(config, [*records, *pruned(14, 18)], (), 0.0) == Action("new")  # too little for a repeat


def test_what_runs_has_its_epochs_set_aside():
    config = make_config(trials=None, epochs=50, repeats={"share": 0.0})
    records = [*(complete(n) for n in range(5)), trial(5, 0.2, 2, RUNNING), trial(6, 0.2, 0, RUNNING)]
    assert next_action(config, records, {5, 6}, 0.0) == Action("new")  # 45 + 3 + 1
    assert next_action(config, [*records, trial(7, 0.2, 0, RUNNING)], {5, 6, 7}, 0.0) is None


def test_a_resumed_trial_must_fit_up_to_its_next_rung():
    config = make_config(trials=None, epochs=30, repeats={"share": 0.0})
    records = [complete(0), complete(1), trial(2, 0.01, 3), *(trial(n, 0.9, 1, PRUNED) for n in range(3, 6))]
    assert next_action(config, records, (), 0.0) == Action("resume", 2)  # 24 + 6
    records.append(trial(6, 0.9, 1, PRUNED))
    assert next_action(config, records, (), 0.0) == Action("new")


def test_one_trial_can_always_be_brought_to_its_end():
    config = make_config(trials=None, epochs=12, repeats={"share": 0.0})
    records = pruned(0, 2)
    assert next_action(config, records, (), 0.0) == Action("new")  # 3 spent, 8 for the rest of one
    records.append(trial(2, 0.8, 1, PRUNED))
    assert next_action(config, records, (), 0.0) == Action("new")  # 4 spent, 8 for the rest of one
    assert next_action(config, [*records, trial(3, 0.7, 1)], (), 0.0) == Action("resume", 3)


def test_without_a_complete_trial_the_best_of_the_paused_goes_on_at_last():
    config = make_config(trials=2)
    records = [trial(0, 0.3), trial(1, 0.2)]
    assert next_action(config, records, (), 0.0) == Action("resume", 1)
    assert next_action(config, [*records[:1], trial(1, 0.2, 2, RUNNING)], {1}, 0.0) is None
    assert next_action(config, [*records[:1], trial(1, 0.2, 3)], (), 0.0) == Action("resume", 1)
    assert next_action(config, [*records[:1], complete(1)], (), 0.0) is None


def test_a_full_space_has_no_new_trials_but_repeats():
    config = make_config(trials=100)
    assert next_action(config, [complete(0), complete(1)], (), 0.0) == Action("new")
    assert next_action(config, [complete(0), complete(1)], (), 0.0, full=True) == Action("repeat", 0, 1)
    assert next_action(config, [complete(0)], (), 0.0, full=True) is None


def test_a_full_space_still_resumes():
    records = [trial(0, 0.3), trial(1, 0.1), trial(2, 0.2)]
    assert next_action(make_config(), records, (), 0.0, full=True) == Action("resume", 1)


@pytest.mark.parametrize("gone", [0, 1, 2, 3, 8])
def test_a_trial_runs_for_sure_to_its_next_rung(gone):
    expected = {0: 1, 1: 3, 2: 3, 3: 9, 8: 9}[gone]
    assert next_rung(make_config(), trial(0, 0.1, gone)) == expected
    assert next_rung(make_config(pruner={"name": "none"}), trial(0, 0.1, gone)) == 9
    assert next_rung(make_config(), trial(5, 0.1, gone, replicate_of=0)) == 9


# Rungs


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [
        (1, [1]),
        (2, [2]),
        (3, [2, 3]),
        (8, [2, 6, 8]),
        (18, [2, 6, 18]),
        (30, [2, 6, 18, 30]),
        (52, [2, 6, 18, 52]),
        (54, [2, 6, 18, 54]),
        (60, [3, 9, 27, 60]),
        (210, [8, 24, 72, 210]),
    ],
)
def test_the_first_rung_is_at_a_27th_and_the_last_well_before_the_end(epochs, expected):
    assert list(ladder(make_config(pruner={}, train={"optim": {"epochs": epochs}}))) == expected


def test_the_first_rung_may_be_given():
    assert list(ladder(make_config(pruner={"min_epochs": 1, "reduction": 2}))) == [1, 2, 4, 9]
    assert list(ladder(make_config(pruner={"min_epochs": 8}))) == [8, 9]
    assert list(ladder(make_config(pruner={"min_epochs": 20}))) == [9]


def should_continue(config: SweepConfig, records: list[TrialRecord], number: int) -> bool:
    """Whether a trial that stands at a rung goes on where no new ones may begin, while another one runs."""
    config = config.model_copy(update={"trials": len(records), "repeats": RepeatsConfig(share=0.0)})
    running = trial(len(records), 0.5, 0, RUNNING, replicate_of=0)
    return next_action(config, [*records, running], {running.number}, 0.0) == Action("resume", number)


@pytest.mark.parametrize(
    ("others", "own", "expected"),
    [
        ([], 0.1, False),  # a third of one, rounded down, is none
        ([0.5], 0.1, False),
        ([0.5, 0.6], 0.1, True),
        ([0.05, 0.6], 0.1, False),
        ([0.1, 0.6], 0.1, False),  # of equals the older
        ([0.05, 0.6, 0.7, 0.8], 0.1, False),  # 1 of 5
        ([0.05, 0.6, 0.7, 0.8, 0.9], 0.1, True),  # 2 of 6
    ],
)
def test_the_best_third_of_a_rung_goes_on(others, own, expected):
    records = [trial(n, nme, 1, PRUNED) for n, nme in enumerate(others)]
    assert should_continue(make_config(), [*records, trial(len(others), own)], len(others)) is expected


@pytest.mark.parametrize(
    ("state", "expected"), [(State.DIVERGED, True), (State.INFEASIBLE, True), (State.FAILED, False)]
)
def test_who_is_of_no_use_is_the_worst_at_the_rungs_on_its_way(state, expected):
    """Three came to the first rung with it, so that the best goes on; who failed by chance counts only where it was."""
    early = [trial(0, 0.1), trial(1, 0.2), TrialRecord(2, {}, state)]
    assert should_continue(make_config(), early, 0) is expected
    later = [trial(0, 0.1, 3), trial(1, 0.2, 3), trial(2, 0.01, 2, state)]
    assert should_continue(make_config(), later, 0) is expected


def test_a_repeat_is_no_rival():
    records = [
        trial(0, 0.2),
        trial(1, 0.5),
        trial(2, 0.01, 1, RUNNING, replicate_of=0),
        trial(3, 0.9, 1, replicate_of=1),
    ]
    assert not should_continue(make_config(), records, 0)  # two have come to the rung
    assert should_continue(make_config(), [*records, trial(4, 0.9)], 0)


def test_with_two_objectives_few_must_be_better_in_both():
    config = make_config(objectives=["nme", "images_per_second"])
    speeds = {0: (0.10, 50.0), 1: (0.20, 500.0), 2: (0.30, 40.0), 3: (0.40, 30.0), 4: (0.50, 20.0), 5: (0.60, 10.0)}
    records = [trial(n, nme, metrics={"images_per_second": speed}) for n, (nme, speed) in speeds.items()]

    def order() -> list[int]:
        """Who goes on, one after the other."""
        left, found = list(records), []
        while (number := next((n for n in range(len(left)) if should_continue(config, left, n)), None)) is not None:
            found.append(number)
            left[number] = replace(left[number], state=PRUNED)
        return found

    assert order() == [0, 1]
    records[1] = trial(1, 0.2, metrics={"images_per_second": 45.0})  # 0 is better in both
    records[2] = trial(2, 0.3, metrics={"images_per_second": 600.0})
    assert order() == [0, 2]


@pytest.mark.parametrize("budget", [27, 28, None])  # 26 are spent, and the next rung is two epochs away
def test_a_trial_goes_on_if_the_budget_reaches_to_its_next_rung(budget):
    config = make_config(epochs=budget, repeats={"share": 0.0})
    records = [complete(0), complete(1), *pruned(2, 9), trial(9, 0.2)]
    assert (next_action(config, records, (), 0.0) == Action("resume", 9)) is (budget != 27)


# The first design


def test_nobody_goes_on_before_the_first_design_has_come_to_the_first_rung():
    config = make_config(sampler={"startup_trials": 4})
    records = [trial(n, 0.1 + n / 100) for n in range(3)]
    assert next_action(config, records, (), 0.0) == Action("new")
    assert next_action(config, [*records, trial(3, 0.5, 0, RUNNING)], {3}, 0.0) == Action("new")
    for other in (trial(3, 0.5), TrialRecord(3, {}, State.DIVERGED)):
        assert next_action(config, [*records, other], (), 0.0) == Action("resume", 0)
    failed = [TrialRecord(n, {}, State.FAILED) for n in range(3, 9)]  # they are no part of any balance
    assert next_action(config, [*records, *failed[:1], *map(trial, range(4, 6))], (), 0.0) == Action("resume", 0)


def test_where_no_new_trial_may_begin_the_first_design_is_over():
    config = make_config(trials=3, sampler={"startup_trials": 9}, repeats={"share": 0.0})
    records = [trial(n, 0.1 + n / 100) for n in range(3)]
    assert next_action(config, records, (), 0.0) == Action("resume", 0)
    assert next_action(make_config(sampler={"startup_trials": 9}), records, (), 0.0, full=True) == Action("resume", 0)


# The end of the search


def test_the_best_trial_is_brought_to_its_end_where_it_waits():
    config = make_config(trials=4, repeats={"share": 0.0})
    records = [complete(0, 0.2), trial(1, 0.1), trial(2, 0.3), trial(3, 0.05, 2, RUNNING)]
    assert next_action(config, records, {3}, 0.0) is None  # it may become the best
    records[3] = trial(3, 0.15, 3)
    assert next_action(config, records, (), 0.0) == Action("resume", 1)
    records[0] = complete(0, 0.09)
    assert next_action(config, records, (), 0.0) is None


def test_the_epochs_that_the_best_needs_are_set_aside():
    config = make_config(trials=None, epochs=30, repeats={"share": 0.0})
    records = [complete(0, 0.2), *pruned(1, 11), trial(11, 0.1, 3)]  # 22 epochs; the best needs six
    assert next_action(config, [*records, *pruned(12, 14)], (), 0.0) == Action("resume", 11)
    records[11] = trial(11, 0.1, 4, RUNNING)
    assert next_action(config, [*records, *pruned(12, 13)], {11}, 0.0) == Action("new")  # 24, five are promised to it
    assert next_action(config, [*records, *pruned(12, 14)], {11}, 0.0) is None
    records[11] = trial(11, 0.1, 3, PRUNED)
    assert next_action(config, [*records, *pruned(12, 19)], (), 0.0) == Action("new")


# Whom to give up


def test_nobody_is_given_up_where_there_is_room():
    config = make_config(pruner={"min_epochs": 1, "paused": 2})
    assert worst_paused(config, []) is None
    assert worst_paused(config, [trial(0), trial(1), complete(2), *pruned(3, 9), trial(9, 0.9, 1, RUNNING)]) is None


@pytest.mark.parametrize(
    ("trials", "worst"),
    [
        ([(0.1, 1), (0.3, 1), (0.2, 1)], 1),
        ([(0.2, 1), (0.2, 1), (0.2, 1)], 2),  # the youngest of equals
        ([(0.1, 1), (0.9, 3), (0.2, 1)], 2),  # who has come further is kept
        ([(0.1, 3), (0.9, 3), (0.2, 3)], 1),
    ],
)
def test_the_worst_of_those_that_came_least_far_is_given_up(trials, worst):
    config = make_config(pruner={"min_epochs": 1, "paused": 2})
    records = [trial(n, nme, epochs) for n, (nme, epochs) in enumerate(trials)]
    assert worst_paused(config, records) is records[worst]


# Whole sweeps


class Fake:
    """A clock that goes on by so many hours with every epoch of any trial."""

    def __init__(self, step: float = 0.0) -> None:
        self.hours, self.step = 0.0, step

    def __call__(self) -> float:
        return self.hours * 3600


class Sweep:
    """Made-up trials, side by side, which report in random order; some may diverge, and the driver be killed."""

    def __init__(
        self,
        config: SweepConfig,
        slots: int,
        seed: int,
        *,
        dying: float = 0.0,
        step: float = 0.0,
        killed: float = 0.0,
    ) -> None:
        self.clock, self.begun = Fake(step), []
        storage, log = InMemoryStorage(), MemoryLog()
        optuna.create_study(storage=storage, study_name=config.name)
        study = Study(storage, config)
        controller = SweepController(config, study, log, self.clock)
        rng, running, full = random.Random(seed), [], config.train.optim.epochs
        while True:
            while len(running) < slots and (assignment := controller.next_trial()) is not None:
                running.append(assignment.number)
                self.begun.append((self.clock.hours, controller.record(assignment.number)))
            if not running:
                break
            assert len(set(running)) == len(running) == controller.live
            number = rng.choice(running)
            epoch = min(controller.record(number).epochs + 1, full)
            self.clock.hours += step
            nme = random.Random(f"{seed} {number}").uniform(0.05, 0.2) + 0.1 / epoch
            metrics = {"best_nme": nme, "epoch_seconds": 60.0}
            if killed and rng.random() < killed:
                if rng.random() < 0.5 and epoch > controller.record(number).epochs:  # before the decision
                    log.append(Event(EventKind.REPORT, number, {"step": epoch, "metrics": metrics}))
                study = Study(storage, config)
                controller, running = SweepController(config, study, log, self.clock), []
                continue
            if rng.random() < dying:
                controller.end(number, State.DIVERGED, "made up")
                running.remove(number)
                continue
            on = controller.report(number, epoch, metrics)
            if epoch == full:
                controller.end(number, COMPLETE)
            if not on or epoch == full:
                running.remove(number)
        self.records, self.config = controller.records, config
        assert controller.live == 0
        assert all(r.state.finished for r in self.records)

    @property
    def epochs(self) -> int:
        return sum(r.epochs for r in self.records)

    def count(self, state: State) -> int:
        return Counter(r.state for r in self.records)[state]


PRUNERS = {
    "halving": {"min_epochs": 1, "reduction": 3},
    "few_paused": {"min_epochs": 1, "reduction": 2, "paused": 1},
    "late": {"min_epochs": 2, "reduction": 2},
    "stopped": {"min_epochs": 1, "reduction": 3, "pause": False},
    "none": {"name": "none"},
}


@pytest.mark.parametrize("slots", [1, 3, 5])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_budget_of_epochs_is_not_exceeded_after_a_kill_either(pruner, slots):
    for seed in (0, 1, 7, 87, 127, 943):  # with the later ones, a kill leaves several trials whose epochs are set aside
        sweep = Sweep(make_config(trials=None, epochs=33, pruner=PRUNERS[pruner]), slots, seed, killed=0.25)
        assert sweep.epochs <= 33, seed
        assert sweep.count(COMPLETE) >= 1, seed


@pytest.mark.parametrize("slots", [1, 3, 16])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_budget_of_epochs_is_never_exceeded_and_has_a_winner(pruner, slots):
    for seed, budget in enumerate((20, 30, 61, 100)):
        sweep = Sweep(make_config(trials=None, epochs=budget, pruner=PRUNERS[pruner]), slots, seed)
        assert sweep.epochs <= budget, (seed, budget)
        assert sweep.count(COMPLETE) >= 1, (seed, budget)


@pytest.mark.parametrize("share", [0.0, 0.2])
@pytest.mark.parametrize("budget", [EPOCHS, EPOCHS + 1, 2 * EPOCHS - 1])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_budget_of_epochs_for_one_whole_training_trains_one(pruner, budget, share):
    config = make_config(trials=None, epochs=budget, pruner=PRUNERS[pruner], repeats={"share": share})
    sweep = Sweep(config, 2, 0)
    assert sweep.epochs <= budget
    assert sweep.count(COMPLETE) == 1


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_budget_of_epochs_is_never_exceeded_where_trials_diverge(pruner, slots):
    for seed in (*range(6), 9, 17):
        sweep = Sweep(make_config(trials=None, epochs=50, pruner=PRUNERS[pruner]), slots, seed, dying=0.1)
        assert sweep.epochs <= 50, seed


def test_a_budget_that_is_too_small_for_one_trial_is_not_exceeded_either():
    assert Sweep(make_config(trials=None, epochs=5), 2, 0).epochs <= 5


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("slots", [1, 4])
def test_a_budget_of_epochs_is_spent_on_search_and_repeats_and_no_more_than_that(share, slots):
    config = make_config(trials=None, epochs=150, repeats={"share": share, "runs": 100, "candidates": 2})
    for seed in range(3):
        sweep = Sweep(config, slots, seed)
        assert 150 * 0.8 <= sweep.epochs <= 150, seed
        assert any(r.replicate_of is not None for r in sweep.records) is (share > 0), seed


@pytest.mark.parametrize("slots", [1, 4, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_budget_of_trials_is_used_up_and_never_exceeded(slots, seed):
    config = make_config(trials=20, repeats={"share": 0.2, "runs": 9, "candidates": 2})
    sweep = Sweep(config, slots, seed)
    new = [r for r in sweep.records if r.replicate_of is None]
    assert 16 <= len(new) <= 20  # more where only one of them was complete at last
    assert len(sweep.records) <= 20
    assert [r.number for r in sweep.records] == list(range(len(sweep.records)))
    if sum(r.state is COMPLETE for r in new) > 1:
        assert len(sweep.records) == 20


def test_repeats_have_the_parameters_of_the_best_and_new_seeds():
    config = make_config(trials=30, repeats={"share": 0.2, "runs": 4, "candidates": 3})
    for seed in range(3):
        records = Sweep(config, 4, seed).records
        repeats = [r for r in records if r.replicate_of is not None]
        assert repeats
        assert all(r.params == records[r.replicate_of].params for r in repeats)
        assert all(records[r.replicate_of].state is COMPLETE for r in repeats)
        assert all(r.state is COMPLETE for r in repeats)  # never paused or stopped
        assert all(r.seed != config.train.run.seed for r in repeats)
        assert len({(r.replicate_of, r.seed) for r in repeats}) == len(repeats)


@pytest.mark.parametrize("slots", [1, 5])
def test_after_the_searchs_hours_repeats_begin_and_nothing_after_the_end(slots):
    config = make_config(trials=None, hours=1.0, repeats={"share": 0.2, "runs": 100})
    for seed in range(2):
        sweep = Sweep(config, slots, seed, step=0.004)
        assert sweep.count(COMPLETE) >= 2
        assert 1.0 <= sweep.clock.hours < 1.0 + 0.004 * slots * (EPOCHS + 1)
        assert max(hours for hours, _ in sweep.begun) < 1.0
        late = [record for hours, record in sweep.begun if hours >= 0.8]
        assert late
        again = [hours for hours, record in sweep.begun if record.replicate_of is not None]
        assert all(hours >= 0.6 for hours in again)
        assert sum(hours < 0.8 for hours in again) == 1


def test_hours_count_from_when_the_controller_was_made():
    config, clock = make_config(trials=None, hours=1.0), Fake()
    clock.hours = 1000.0
    controller = SweepController(config, Study.in_memory(config), MemoryLog(), clock)
    assert controller.next_trial() is not None
    clock.hours += 1.0
    assert controller.next_trial() is None


def test_device_hours_end_a_sweep():
    config = make_config(trials=None, device_hours=1.0, resources={"gpus": 0.5}, repeats={"share": 0.2, "runs": 100})
    sweep = Sweep(config, 1, 0)
    assert 1.0 <= device_hours(config, sweep.records) <= 1.0 + EPOCHS / 60 / 2


@pytest.mark.parametrize("slots", [1, 3, 10])
def test_a_finite_space_that_is_full_ends_the_sweep(slots):
    space = {"optim.batch_size": {"choice": [4, 8]}, "loss.distance": {"choice": ["l1", "l2", "smooth_l1"]}}
    config = make_config(space=space, trials=100, repeats={"share": 0.0})
    sweep = Sweep(config, slots, 0)
    assert len(sweep.records) == 6
    assert len({repr(r.params) for r in sweep.records}) == 6


def test_a_finite_space_that_is_full_leaves_the_rest_to_repeats():
    space = {"optim.batch_size": {"choice": [4, 8]}}
    config = make_config(space=space, trials=100, pruner={"name": "none"}, repeats={"share": 0.2, "runs": 3})
    records = Sweep(config, 2, 0).records
    assert sum(r.replicate_of is None for r in records) == 2
    assert 2 < len(records) <= 6


@pytest.mark.parametrize("slots", [1, 6])
def test_never_more_are_paused_than_shall_be_kept(slots):
    config = make_config(trials=40, pruner={"min_epochs": 1, "reduction": 3, "paused": 3})
    controller = SweepController(config, Study.in_memory(config), MemoryLog())
    while (assignment := controller.next_trial()) is not None:
        number, nme = assignment.number, random.Random(assignment.number).random()
        for epoch in range(controller.record(number).epochs + 1, EPOCHS + 1):
            if not controller.report(number, epoch, {"best_nme": nme, "epoch_seconds": 1.0}):
                break
        else:
            controller.end(number, COMPLETE)
        assert sum(r.state is PAUSED for r in controller.records) <= 3


def test_the_same_reports_give_the_same_sweep():
    config = make_config(trials=None, epochs=80)
    one, two = Sweep(config, 3, 5), Sweep(config, 3, 5)
    assert one.records == two.records

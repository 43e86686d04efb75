"""Repeats with other seeds: whom they are for, when they stop, and that the mean decides."""

import math
import random

import pytest

from sweep.analysis.statistics import mean_interval
from sweep.core.sections import RepeatsConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.ranking import best, rank
from sweep.search.replicates import ConfigRuns, next_replicate, pooled_spread, runs_by_config

CONFIG = RepeatsConfig(share=0.2, candidates=3, runs=4)


def trial(number: int, nme: float | None, state: State = State.COMPLETE, **rest) -> TrialRecord:
    return TrialRecord(number, {"optim.lr": number / 1000}, state, {} if nme is None else {1: 1.0, 2: nme}, **rest)


def table(*rows: tuple[float, ...]) -> list[TrialRecord]:
    """A configuration a row: its first run, then its repeats; all first runs come before all repeats."""
    records = [trial(n, row[0]) for n, row in enumerate(rows)]
    for n, row in enumerate(rows):
        for i, nme in enumerate(row[1:], start=1):
            records.append(trial(len(records), nme, seed=i, replicate_of=n))
    return records


def order(records: list[TrialRecord]) -> list[int]:
    return [c.trial.number for c in runs_by_config(records)]


# Configurations and their runs


def test_those_that_were_repeated_come_first_each_by_its_mean():
    records = table((0.30, 0.10), (0.15,), (0.15, 0.17, 0.16), (0.14,), (0.15,))
    assert order(records) == [2, 0, 3, 1, 4]
    found = runs_by_config(records)
    assert found[0].nmes == (0.15, 0.17, 0.16)
    assert found[0].mean == pytest.approx(0.16)
    assert found[0].trial is records[2]


def test_what_is_better_by_more_than_noise_needs_no_repeat_to_come_first():
    records = table((0.100, 0.101), (0.102, 0.103), (0.050,), (0.0995,))
    assert order(records) == [2, 0, 1, 3]
    assert order(table((0.100, 0.100), (0.0999,), (0.1001,))) == [1, 0, 2]  # without noise, each difference is one


def test_without_repeats_the_nme_decides_and_then_the_number():
    assert order(table((0.3,), (0.1,), (0.2,), (0.1,))) == [1, 3, 2, 0]


@pytest.mark.parametrize("state", [s for s in State if s is not State.COMPLETE])
def test_only_complete_runs_count(state):
    records = [trial(0, 0.2), trial(1, 0.1, state), trial(2, 0.01, state, seed=1, replicate_of=0)]
    (only,) = runs_by_config(records)
    assert (only.trial.number, only.nmes) == (0, (0.2,))


def test_a_repeat_of_a_trial_that_is_not_complete_is_no_contender():
    assert runs_by_config([trial(0, 0.1, State.FAILED), trial(1, 0.1, seed=1, replicate_of=0)]) == []


def test_no_records_no_contenders():
    assert runs_by_config([]) == []
    assert best([]) is None


# The winner


def test_the_winner_has_the_lowest_mean_not_the_lucky_minimum():
    records = table((0.100, 0.140, 0.150), (0.110, 0.112, 0.111), (0.120,))
    assert min(records, key=lambda r: r.best_nme).number == 0
    assert best(records) is records[1]


def test_a_lucky_trial_that_was_not_repeated_does_not_win():
    records = table((0.090,), (0.110, 0.112), (0.100, 0.130))
    assert best(records) is records[1]


def test_a_trial_that_is_better_by_more_than_luck_wins():
    records = table((0.050,), (0.110, 0.112), (0.100, 0.130))
    assert best(records) is records[0]


def test_without_repeats_the_lowest_nme_wins():
    assert best(table((0.3,), (0.1,), (0.2,))).number == 1


def test_the_winner_is_told_by_its_first_trial_though_a_repeat_was_better():
    records = table((0.2, 0.1), (0.3, 0.3))
    assert best(records) is records[0]


def test_repeats_stand_below_their_configuration():
    records = table((0.100, 0.140), (0.110, 0.112, 0.111), (0.090,))
    numbers = [r.number for r in rank(records)]
    assert numbers[0] == 1
    assert sorted(numbers[:3]) == [1, 4, 5]
    assert sorted(numbers[3:5]) == [0, 3]
    assert numbers[5] == 2


# How much runs differ


def test_pooled_spread_of_two_configurations_by_hand():
    found = runs_by_config(table((0.9, 1.1), (1.9, 2.0, 2.1), (5.0,)))
    spread, freedom = pooled_spread(found)
    squares = 2 * 0.1**2 + 2 * 0.05**2
    assert freedom == 3
    assert spread == pytest.approx(math.sqrt(squares / 3))


def test_pooled_spread_is_unknown_without_repeats():
    for records in ([], table((0.1,), (0.2,))):
        spread, freedom = pooled_spread(runs_by_config(records))
        assert math.isnan(spread)
        assert freedom == 0


def test_pooled_spread_estimates_the_noise_that_was_put_in():
    rng = random.Random(0)
    first = trial(0, 0.1)
    found = [ConfigRuns(first, tuple(m * rng.gauss(1, 0.03) for _ in range(3))) for m in [0.05, 0.1, 0.4] * 100]
    spread, freedom = pooled_spread(found)
    assert freedom == 600
    assert spread == pytest.approx(0.03, rel=0.1)


def test_mean_interval_by_hand():
    low, high = mean_interval([1.0, 3.0], 1.0, 2)  # the 97.5 % quantile of t with two degrees is 4.303
    assert (low, high) == pytest.approx((2 - 4.303 / math.sqrt(2), 2 + 4.303 / math.sqrt(2)), abs=1e-3)


def test_mean_interval_shrinks_with_more_runs_and_more_freedom():
    def width(runs: int, freedom: int) -> float:
        low, high = mean_interval([0.1] * runs, 0.01, freedom)
        return high - low

    assert width(2, 3) > width(3, 3) > width(3, 10) > width(8, 10)


# What to repeat next


@pytest.mark.parametrize("records", [[], table((0.1,)), table((0.1, 0.2))], ids=["none", "one", "one_repeated"])
def test_fewer_than_two_candidates_need_no_repeat(records):
    assert next_replicate(CONFIG, records, 0) is None


def test_stopped_trials_are_no_candidates():
    records = [trial(0, 0.2), trial(1, 0.1, State.PRUNED), trial(2, 0.1, State.RUNNING)]
    assert next_replicate(CONFIG, records, 0) is None


def test_the_best_by_its_first_run_is_repeated_first():
    assert next_replicate(CONFIG, table((0.3,), (0.1,), (0.2,)), 7) == (1, 8)


def test_candidates_get_their_runs_in_turn():
    records = table((0.103,), (0.100,), (0.102,), (0.101,))  # 0 is the fourth best, and has no turn
    turns = []
    while (step := next_replicate(CONFIG, records, 10)) is not None:
        turns.append(step)
        number, seed = step
        nme = records[number].best_nme + (0.01 if seed % 2 else -0.01)  # noise enough, so that none is left out
        records.append(trial(len(records), nme, seed=seed, replicate_of=number))
    assert turns == [(number, seed) for seed in (11, 12, 13) for number in (1, 3, 2)]


def test_while_the_first_repeat_runs_there_is_no_other():
    records = table((0.100,), (0.101,))
    assert next_replicate(CONFIG, records, 0) == (0, 1)
    records.append(trial(2, None, State.RUNNING, seed=1, replicate_of=0))
    assert next_replicate(CONFIG, records, 0) is None
    assert next_replicate(CONFIG, [*records, trial(3, 0.05)], 0) is None  # nor where another is the best by now
    failed = [*records[:2], trial(2, None, State.FAILED, seed=1, replicate_of=0)]
    assert next_replicate(CONFIG, [*failed, trial(3, 0.05)], 0) == (3, 1)


def test_a_repeat_that_runs_has_had_its_turn():
    records = [*table((0.100, 0.110), (0.101,), (0.102,)), trial(4, None, State.RUNNING, seed=1, replicate_of=1)]
    assert next_replicate(CONFIG, records, 0) == (2, 1)
    records.append(trial(5, None, State.RUNNING, seed=1, replicate_of=2))
    assert next_replicate(CONFIG, records, 0) == (0, 2)


def test_without_noise_one_repeat_tells_all():
    assert next_replicate(CONFIG, table((0.1, 0.1), (0.1001,), (0.1002,)), 0) is None
    assert next_replicate(CONFIG, table((0.1, 0.1), (0.1001,), (0.0999,)), 0) is None  # found later, and surely better
    assert next_replicate(CONFIG, table((0.1, 0.1), (0.1,)), 0) == (1, 1)  # nothing tells these apart


def test_the_noise_stays_known_when_better_ones_are_found():
    records = table((0.200, 0.2001), (0.101,), (0.102,), (0.100,))
    assert next_replicate(CONFIG, records, 0) is None  # three are better than the one that was repeated


def test_what_may_be_better_gets_a_repeat_though_it_was_found_later():
    records = table((0.100, 0.102, 0.104, 0.102), (0.110, 0.108, 0.109, 0.111), (0.101,))
    assert next_replicate(CONFIG, records, 0) == (2, 1)


def test_one_that_is_clearly_worse_gets_no_more_runs():
    records = table((0.100, 0.101, 0.099), (0.200, 0.201), (0.1005, 0.0995))
    assert next_replicate(CONFIG, records, 0) == (2, 2)
    records.append(trial(len(records), 0.1000, seed=2, replicate_of=2))
    assert next_replicate(CONFIG, records, 0) == (0, 3)  # now it would be the turn of 1, which has only two


def test_one_that_may_be_as_good_gets_its_run():
    records = table((0.100, 0.110, 0.090), (0.104, 0.103), (0.102, 0.112, 0.092))
    assert next_replicate(CONFIG, records, 0) == (1, 2)


def test_one_run_is_enough_to_leave_out_what_is_much_worse():
    records = table((0.100, 0.101, 0.099), (0.9,), (0.101, 0.100, 0.102))
    assert next_replicate(CONFIG, records, 0) == (0, 3)
    records = table((0.100, 0.101, 0.099), (0.1015,), (0.101, 0.100, 0.102))
    assert next_replicate(CONFIG, records, 0) == (1, 1)

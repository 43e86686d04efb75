"""Repeats with other seeds: whom they are for, when they stop, and that the mean decides."""

import math
import random
from collections import Counter
from statistics import fmean

import pytest

from sweep.analysis.statistics import mean_interval
from sweep.core.config import RepeatsConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.ranking import best, rank
from sweep.search.replicates import Contender, contenders, next_repeat, pooled_spread

CONFIG = RepeatsConfig(share=0.2, candidates=3, runs=4)


def trial(number: int, nme: float | None, state: State = State.COMPLETE, **rest) -> TrialRecord:
    return TrialRecord(number, {"optim.lr": number / 1000}, state, {} if nme is None else {1: 1.0, 2: nme}, **rest)


def table(*rows: tuple[float, ...]) -> list[TrialRecord]:
    """A configuration a row: its first run, then its repeats; all first runs come before all repeats."""
    records = [trial(n, row[0]) for n, row in enumerate(rows)]
    for n, row in enumerate(rows):
        for i, nme in enumerate(row[1:], start=1):
            records.append(trial(len(records), nme, seed=i, repeats=n))
    return records


def order(records: list[TrialRecord]) -> list[int]:
    return [c.trial.number for c in contenders(records)]


# Contenders


def test_those_that_were_repeated_come_first_each_by_its_mean():
    records = table((0.30, 0.10), (0.05,), (0.15, 0.17, 0.16), (0.04,), (0.05,))
    assert order(records) == [2, 0, 3, 1, 4]
    found = contenders(records)
    assert found[0].nmes == (0.15, 0.17, 0.16)
    assert found[0].mean == pytest.approx(0.16)
    assert found[0].trial is records[2]


def test_without_repeats_the_nme_decides_and_then_the_number():
    assert order(table((0.3,), (0.1,), (0.2,), (0.1,))) == [1, 3, 2, 0]


@pytest.mark.parametrize("state", [s for s in State if s is not State.COMPLETE])
def test_only_complete_runs_count(state):
    records = [trial(0, 0.2), trial(1, 0.1, state), trial(2, 0.01, state, seed=1, repeats=0)]
    (only,) = contenders(records)
    assert (only.trial.number, only.nmes) == (0, (0.2,))


def test_a_repeat_of_a_trial_that_is_not_complete_is_no_contender():
    assert contenders([trial(0, 0.1, State.FAILED), trial(1, 0.1, seed=1, repeats=0)]) == []


def test_no_records_no_contenders():
    assert contenders([]) == []
    assert best([]) is None


# The winner


def test_the_winner_has_the_lowest_mean_not_the_lucky_minimum():
    records = table((0.100, 0.140, 0.150), (0.110, 0.112, 0.111), (0.120,))
    assert min(records, key=lambda r: r.best_nme).number == 0
    assert best(records) is records[1]


def test_a_lucky_trial_that_was_not_repeated_does_not_win():
    records = table((0.050,), (0.110, 0.112), (0.100, 0.130))
    assert best(records) is records[1]


def test_without_repeats_the_lowest_nme_wins():
    assert best(table((0.3,), (0.1,), (0.2,))).number == 1


def test_the_winner_is_told_by_its_first_trial_though_a_repeat_was_better():
    records = table((0.2, 0.1), (0.3, 0.3))
    assert best(records) is records[0]


def test_repeats_stand_below_their_configuration():
    records = table((0.100, 0.140), (0.110, 0.112, 0.111), (0.050,))
    numbers = [r.number for r in rank(records)]
    assert numbers[0] == 1
    assert sorted(numbers[:3]) == [1, 4, 5]
    assert sorted(numbers[3:5]) == [0, 3]
    assert numbers[5] == 2


# How much runs differ


def test_pooled_spread_of_two_configurations_by_hand():
    found = contenders(table((0.9, 1.1), (1.9, 2.0, 2.1), (5.0,)))
    spread, freedom = pooled_spread(found)
    squares = 2 * 0.1**2 + 2 * 0.05**2
    assert freedom == 3
    assert spread == pytest.approx(math.sqrt(squares / 3))


def test_pooled_spread_is_unknown_without_repeats():
    for records in ([], table((0.1,), (0.2,))):
        spread, freedom = pooled_spread(contenders(records))
        assert math.isnan(spread)
        assert freedom == 0


def test_pooled_spread_estimates_the_noise_that_was_put_in():
    rng = random.Random(0)
    first = trial(0, 0.1)
    found = [Contender(first, tuple(m * rng.gauss(1, 0.03) for _ in range(3))) for m in [0.05, 0.1, 0.4] * 100]
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
    assert next_repeat(CONFIG, records, 0) is None


def test_stopped_trials_are_no_candidates():
    records = [trial(0, 0.2), trial(1, 0.1, State.PRUNED), trial(2, 0.1, State.RUNNING)]
    assert next_repeat(CONFIG, records, 0) is None


def test_the_best_by_its_first_run_is_repeated_first():
    assert next_repeat(CONFIG, table((0.3,), (0.1,), (0.2,)), 7) == (1, 8)


def test_candidates_get_their_runs_in_turn():
    records = table((0.103,), (0.100,), (0.102,), (0.101,))  # 0 is the fourth best, and has no turn
    turns = []
    while (step := next_repeat(CONFIG, records, 10)) is not None:
        turns.append(step)
        number, seed = step
        nme = records[number].best_nme + (0.01 if seed % 2 else -0.01)  # noise enough, so that none is left out
        records.append(trial(len(records), nme, seed=seed, repeats=number))
    assert turns == [(number, seed) for seed in (11, 12, 13) for number in (1, 3, 2)]


def test_a_repeat_that_runs_has_had_its_turn():
    records = [*table((0.1,), (0.2,)), trial(2, None, State.RUNNING, seed=1, repeats=0)]
    assert next_repeat(CONFIG, records, 0) == (1, 1)
    records.append(trial(3, None, State.RUNNING, seed=1, repeats=1))
    assert next_repeat(CONFIG, records, 0) == (0, 2)


def test_one_that_is_clearly_worse_gets_no_more_runs():
    records = table((0.100, 0.101, 0.099), (0.200, 0.201), (0.1005, 0.0995))
    assert next_repeat(CONFIG, records, 0) == (2, 2)
    records.append(trial(len(records), 0.1000, seed=2, repeats=2))
    assert next_repeat(CONFIG, records, 0) == (0, 3)  # now it would be the turn of 1, which has only two


def test_one_that_may_be_as_good_gets_its_run():
    records = table((0.100, 0.110, 0.090), (0.104, 0.103), (0.102, 0.112, 0.092))
    assert next_repeat(CONFIG, records, 0) == (1, 2)


def test_one_run_is_too_few_to_leave_a_candidate_out():
    records = table((0.100, 0.101, 0.099), (0.9,), (0.101, 0.100, 0.102))
    assert next_repeat(CONFIG, records, 0) == (1, 1)


def test_it_ends_when_all_but_one_are_clearly_worse():
    assert next_repeat(CONFIG, table((0.100, 0.101), (0.200, 0.201), (0.300, 0.301)), 0) is None


def test_a_configuration_that_only_its_luck_made_a_candidate_is_left_out():
    records = table((0.090, 0.150, 0.151), (0.100, 0.101, 0.100), (0.102, 0.101, 0.102))
    assert next_repeat(CONFIG, records, 0) == (1, 3)


@pytest.mark.parametrize("runs", [2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_seeds_are_never_used_twice_and_runs_have_an_end(runs, seed):
    rng = random.Random(seed)
    config = RepeatsConfig(candidates=3, runs=runs)
    records = table(*((rng.uniform(0.1, 0.11),) for _ in range(6)))
    allowed = {r.number for r in sorted(records, key=lambda r: r.best_nme)[:3]}
    used: list[tuple[int, int]] = []
    while (step := next_repeat(config, records, 100)) is not None:
        used.append(step)
        number, run_seed = step
        state = rng.choice([State.COMPLETE, State.COMPLETE, State.FAILED, State.DIVERGED])
        nme = rng.uniform(0.1, 0.11) if state is State.COMPLETE else None
        records.append(trial(len(records), nme, state, seed=run_seed, repeats=number))
        assert len(used) <= 3 * (runs - 1)
    assert len(set(used)) == len(used)
    assert {number for number, _ in used} <= allowed
    assert all(100 < run_seed < 100 + runs for _, run_seed in used)
    assert max(Counter(number for number, _ in used).values()) <= runs - 1


def test_asking_again_gives_the_same():
    records = table((0.103, 0.1), (0.100,), (0.102,))
    assert len({next_repeat(CONFIG, records, 0) for _ in range(3)}) == 1


def test_the_mean_finds_the_truly_best_more_often_than_the_minimum():
    """Three configurations, 1 % apart, with noise of 2 %: over many draws the mean of four runs must be the better."""
    truth = (0.100, 0.101, 0.102)
    by_mean = by_minimum = 0
    for seed in range(100):
        rng = random.Random(seed)
        records = table(*((mean * rng.gauss(1, 0.02),) for mean in truth))
        by_minimum += best(records).number == 0
        while (step := next_repeat(CONFIG, records, 0)) is not None:
            nme = truth[step[0]] * rng.gauss(1, 0.02)
            records.append(trial(len(records), nme, seed=step[1], repeats=step[0]))
        by_mean += best(records).number == 0
    assert by_mean > by_minimum


def test_the_mean_of_a_contender_is_that_of_all_its_runs():
    nmes = (0.1, 0.2, 0.4)
    assert Contender(trial(0, 0.1), nmes).mean == pytest.approx(fmean(nmes))

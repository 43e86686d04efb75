"""What is kept up to date is what looking through all trials anew would find, after every change."""

import itertools
import math
import random
from statistics import median

import pytest

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search import samplers
from sweep.search.curve_forecast import Promises
from sweep.search.pruners import Rung, promotable
from sweep.search.samplers import Past, draw
from sweep.search.scheduler import goes_on, next_step, worst_paused
from sweep.search.trial_table import Trials

EPOCHS = 9  # with rungs at 1 and 3, in the second bracket at 3 only
ENDS = (State.PRUNED, State.COMPLETE, State.DIVERGED, State.FAILED, State.INFEASIBLE)


def make_config(**changes) -> SweepConfig:
    tree = {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "optim.warmup_steps": {"int": [0, 9]}},
        "pruner": {"name": "hyperband", "min_epochs": 1, "reduction": 3, "paused": 5},
        "train": {"optim": {"epochs": EPOCHS}},
        "trials": 200,
    }
    return SweepConfig(**{**tree, **changes})


def stories(seed: int, trials: int = 40):
    """Changes of made-up trials in some order: each is a record as it is from then on."""
    rng = random.Random(seed)
    records: dict[int, TrialRecord] = {}
    while len(records) < trials or any(not r.state.finished for r in records.values()):
        open_ones = [r for r in records.values() if not r.state.finished]
        if len(records) < trials and (not open_ones or rng.random() < 0.2):
            repeats = rng.randrange(len(records)) if records and rng.random() < 0.1 else None
            number = len(records)
            params = {"optim.lr": 1e-3 + number * 1e-6, "optim.warmup_steps": number % 10}
            record = TrialRecord(number, params, seed=repeats, repeats=repeats)
        else:
            record = changed(rng.choice(open_ones), rng)
        records[record.number] = record
        yield record, [records[n] for n in sorted(records)]


def changed(record: TrialRecord, rng: random.Random) -> TrialRecord:
    """One more epoch, a pause at a rung, a resumption or an end."""
    given, epochs = vars(record), record.epochs
    rungs = (1, 3) if record.number % 3 != 1 else (3,)
    if record.state is State.PAUSED:
        return TrialRecord(**{**given, "state": rng.choice([State.RUNNING, State.PRUNED])})
    if epochs in rungs and record.repeats is None and rng.random() < 0.6:
        return TrialRecord(**{**given, "state": State.PAUSED})
    if epochs == EPOCHS or (epochs and rng.random() < 0.1):
        return TrialRecord(**{**given, "state": State.COMPLETE if epochs == EPOCHS else rng.choice(ENDS)})
    nme = min(record.best_nme or 1.0, round(rng.uniform(0.05, 0.5), 1 + record.number % 3))  # some are equal
    return TrialRecord(**{**given, "curve": {**record.curve, epochs + 1: nme}, "seconds": record.seconds + 0.1})


@pytest.mark.parametrize("seed", range(4))
def test_trials_kept_up_to_date_are_those_looked_through_anew(seed):
    config = make_config()
    kept = Trials(config)
    for record, records in stories(seed):
        kept.put(record)
        assert list(kept) == records
        assert kept.epochs == sum(r.epochs for r in records)
        assert kept.complete == sum(r.state is State.COMPLETE and r.repeats is None for r in records)
        assert kept.repeats == sum(r.repeats is not None for r in records)
        assert kept.seconds == pytest.approx(sum(r.seconds for r in records), abs=1e-6)
        assert {r.number for r in kept.paused} == {r.number for r in records if r.state is State.PAUSED}
        assert kept.finalists == [r for r in records if r.state is State.COMPLETE or r.repeats is not None]
        live = {r.number for r in records if r.state is State.RUNNING}
        assert next_step(config, kept, live, 0.0) == next_step(config, records, live, 0.0)
        assert worst_paused(config, kept) == worst_paused(config, records) == worst_by_hand(records)


@pytest.mark.parametrize("seed", range(4))
def test_who_goes_on_is_who_is_promotable(seed):
    config = make_config()
    kept = Trials(config)
    for record, records in stories(seed):
        kept.put(record)
        for r in records:
            rung = r.epochs
            if r.repeats is None and rung in ((1, 3) if r.number % 3 != 1 else (3,)):
                values = {o.number: o.curve[rung] for o in records if rung in o.curve and o.repeats is None}
                assert goes_on(config, kept, r.number) is (r.number in promotable(config.pruner, values))


def worst_by_hand(records: list[TrialRecord]) -> TrialRecord | None:
    paused = [r for r in records if r.state is State.PAUSED]
    return max(paused, key=lambda r: (-r.epochs, r.best_nme, r.number)) if len(paused) > 5 else None


@pytest.mark.parametrize("seed", range(4))
def test_promises_kept_up_to_date_are_those_of_all_curves(seed):
    kept = Promises(EPOCHS)
    for record, records in stories(seed):
        kept.put(record, counts=record.state is not State.DIVERGED)
        counted = [r for r in records if r.state is not State.DIVERGED]
        assert kept.ends() == pytest.approx(ends_by_hand(counted), rel=1e-12)
        assert kept.ends() == Promises(EPOCHS, counted).ends()


def ends_by_hand(records: list[TrialRecord]) -> dict[int, float]:
    curves = {r.number: r.curve for r in records if r.curve}
    fall, falls = 0.0, {EPOCHS: 0.0}
    for here, later in reversed(list(itertools.pairwise(sorted({max(c) for c in curves.values()} | {EPOCHS})))):
        both = [math.log(c[later] / c[here]) for c in curves.values() if later in c and here in c]
        fall += median(both) if both else 0.0
        falls[here] = fall
    return {number: math.log(curve[max(curve)]) + falls[max(curve)] for number, curve in curves.items()}


def test_a_rung_knows_its_best_and_who_of_them_waits():
    rung = Rung()
    for number, value in enumerate([0.3, 0.1, 0.2, 0.1, 0.5, 0.4]):
        rung.come(number, value)
    rung.wait(3, 0.1)
    rung.wait(0, 0.3)
    assert [rung.deserves(n, v, 3) for v, n in rung.arrived] == [True, True, False, False, False, False]
    assert rung.deserving(3) == [(0.1, 3)]
    rung.leave(3, 0.1)
    assert rung.deserving(3) == []
    assert rung.waiting == [(0.3, 0)]


@pytest.mark.parametrize("seed", range(2))
def test_a_draw_is_the_same_from_what_is_kept_and_from_records(seed, monkeypatch):
    config = make_config(sampler={"name": "tpe", "startup_trials": 3, "random_share": 0.0})
    kept = Past(config)
    for step, (record, records) in enumerate(stories(seed)):
        kept.put(record)
        if step % 5 == 0:
            assert draw(config, kept, len(records)) == draw(config, records, len(records))
    monkeypatch.setattr(samplers, "_SHOWN", 20)  # the same where not all are shown
    monkeypatch.setattr(samplers, "_GOOD", 5)
    assert draw(config, kept, 99) == draw(config, records, 99) == draw(config, Past(config, reversed(records)), 99)


def test_of_very_many_trials_the_best_and_a_sample_are_shown(monkeypatch):
    config = make_config(sampler={"name": "tpe"})
    params = {"optim.lr": 1e-3, "optim.warmup_steps": 0}
    past = Past(config)
    monkeypatch.setattr(samplers, "_SHOWN", 60)
    for number in range(300):
        state = State.FAILED if number % 10 == 9 else State.PRUNED
        past.put(TrialRecord(number, params, state, {1: 0.1 + abs(number - 150) / 1000}))
        if number == 59:
            assert [t.number - 1 for t in past.shown(0.5)] == [n for n in range(60) if n % 10 != 9]
    numbers = [t.number - 1 for t in past.shown(0.5)]
    assert numbers == sorted(set(numbers))
    assert 35 < len(numbers) <= 60
    assert not any(n % 10 == 9 for n in numbers)
    assert {n for n in range(137, 164) if n % 10 != 9} <= set(numbers)  # the 25 best
    assert min(numbers) < 60
    assert max(numbers) > 240

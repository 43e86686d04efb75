"""What is kept up to date is what looking through all trials anew would find, after every change."""

import math
import random

import pytest

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.rungs import Rung
from sweep.search.sampling.rank_gp import score
from sweep.search.sampling.sampler import Sampler
from sweep.search.scheduler import next_action, worst_paused
from sweep.search.trial_table import TrialTable

EPOCHS = 9  # with rungs at 1 and 3
ENDS = (State.PRUNED, State.COMPLETE, State.DIVERGED, State.FAILED, State.INFEASIBLE)


def make_config(**changes) -> SweepConfig:
    tree = {
        "space": {"optim.lr": {"log_uniform": [1e-4, 1e-2]}, "optim.warmup_steps": {"int": [0, 9]}},
        "pruner": {"min_epochs": 1, "reduction": 3, "paused": 5},
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
            record = TrialRecord(number, params, seed=repeats, replicate_of=repeats)
        else:
            record = changed(rng.choice(open_ones), rng)
        records[record.number] = record
        yield record, [records[n] for n in sorted(records)]


def changed(record: TrialRecord, rng: random.Random) -> TrialRecord:
    """One more epoch, a pause at a rung, a resumption or an end."""
    given, epochs = vars(record), record.epochs
    if record.state is State.PAUSED:
        return TrialRecord(**{**given, "state": rng.choice([State.RUNNING, State.PRUNED])})
    if epochs in (1, 3) and record.replicate_of is None and rng.random() < 0.6:
        return TrialRecord(**{**given, "state": State.PAUSED})
    if epochs == EPOCHS or (epochs and rng.random() < 0.1):
        return TrialRecord(**{**given, "state": State.COMPLETE if epochs == EPOCHS else rng.choice(ENDS)})
    nme = min(record.best_nme or 1.0, round(rng.uniform(0.05, 0.5), 1 + record.number % 3))  # some are equal
    return TrialRecord(**{**given, "curve": {**record.curve, epochs + 1: nme}, "seconds": record.seconds + 0.1})


@pytest.mark.parametrize("seed", range(4))
def test_trials_kept_up_to_date_are_those_looked_through_anew(seed):
    config = make_config()
    kept = TrialTable(config)
    for record, records in stories(seed):
        kept.upsert(record)
        assert list(kept) == records
        assert kept.epochs == sum(r.epochs for r in records)
        assert kept.complete == sum(r.state is State.COMPLETE and r.replicate_of is None for r in records)
        assert kept.replicates == sum(r.replicate_of is not None for r in records)
        assert kept.seconds == pytest.approx(sum(r.seconds for r in records), abs=1e-6)
        assert {r.number for r in kept.paused} == {r.number for r in records if r.state is State.PAUSED}
        assert kept.finalists == [r for r in records if r.state is State.COMPLETE or r.replicate_of is not None]
        live = {r.number for r in records if r.state is State.RUNNING}
        assert next_action(config, kept, live, 0.0) == next_action(config, records, live, 0.0)
        assert worst_paused(config, kept) == worst_paused(config, records) == worst_by_hand(records)


def worst_by_hand(records: list[TrialRecord]) -> TrialRecord | None:
    paused = [r for r in records if r.state is State.PAUSED]
    return max(paused, key=lambda r: (-r.epochs, r.best_nme, r.number)) if len(paused) > 5 else None


@pytest.mark.parametrize("seed", range(4))
def test_rungs_and_leader_are_those_of_all_records(seed):
    config = make_config()
    kept = TrialTable(config)
    for record, records in stories(seed):
        kept.upsert(record)
        mine = [r for r in records if r.replicate_of is None]
        for epoch, rung in kept.rungs.items():
            came = {r.number: value for r in mine if (value := value_at(r, epoch)) is not None}
            assert rung.reached == sorted((value, number) for number, value in came.items())
            waiting = [(r.best_nme, r.number) for r in mine if r.state is State.PAUSED and r.epochs == epoch]
            assert rung.paused == sorted(waiting)
        assert kept.settled == sum(r.state.finished or r.epochs >= 1 for r in mine)
        assert kept.early == [r.number for r in mine if not r.state.finished and r.epochs < 1]
        good = [r for r in mine if r.curve and r.state.usable]
        assert kept.leader == min(good, key=lambda r: (r.best_nme, r.number), default=None)


def value_at(record: TrialRecord, rung: int) -> float | None:
    """By the rule: the NME there; of one that is of no use the worst, also at the rung that it was on its way to."""
    if record.state is State.FAILED:
        return None
    if not record.state.usable:
        before = max(epoch for epoch in (0, 1, 3) if epoch < rung)
        return math.inf if record.epochs >= before else None
    return record.curve.get(rung)


def test_a_rung_knows_who_of_its_best_waits():
    rung = Rung()
    for number, value in enumerate([0.3, 0.1, 0.2, 0.1, 0.5, 0.4]):
        rung.add(number, value)
    rung.pause(3, 0.1)
    rung.pause(0, 0.3)
    assert rung.promotable(3) == [(0.1, 3)]
    assert rung.promotable(2) == [(0.1, 3)]
    assert rung.promotable(1) == [(0.1, 3), (0.3, 0)]
    rung.resume(3, 0.1)
    assert rung.promotable(3) == []
    assert rung.paused == [(0.3, 0)]
    rung.remove(3, 0.1)
    assert rung.reached[0] == (0.1, 1)
    assert len(rung.reached) == 5


def test_where_another_version_has_paused_a_trial_it_waits_at_the_rung_before():
    config = make_config()
    kept = TrialTable(config, [TrialRecord(0, {}, State.PAUSED, {1: 0.2, 2: 0.1}), TrialRecord(1, {}, State.PAUSED)])
    assert kept.rungs[1].paused == [(0.1, 0), (math.inf, 1)]
    kept.upsert(TrialRecord(0, {}, State.RUNNING, {1: 0.2, 2: 0.1}))
    assert kept.rungs[1].paused == [(math.inf, 1)]


@pytest.mark.parametrize("name", ["rank_gp", "tpe"])
@pytest.mark.parametrize("seed", range(2))
def test_a_suggestion_is_the_same_from_what_is_kept_and_from_records(seed, name):
    config = make_config(sampler={"name": name, "startup_trials": 3, "random_share": 0.0})
    kept = TrialTable(config)
    sampler = Sampler(config, kept)
    for step, (record, records) in enumerate(stories(seed)):
        kept.upsert(record)
        if step % 5 == 0:
            anew = Sampler(config, TrialTable(config, records))
            assert sampler.suggest(len(records), {}) == anew.suggest(len(records), {})


def test_of_very_many_trials_the_best_and_an_even_part_are_shown(monkeypatch):
    config = make_config(sampler={"name": "tpe"})
    params = {"optim.lr": 1e-3, "optim.warmup_steps": 0}
    monkeypatch.setattr("sweep.search.sampling.sampler._VISIBLE", 60)
    table = TrialTable(config)
    for number in range(300):
        state = State.FAILED if number % 10 == 9 else State.PRUNED
        table.upsert(TrialRecord(number, params, state, {1: 0.1 + abs(number - 150) / 1000}))
    shown = Sampler(config, table)._history(score([rung.reached for rung in table.rungs.values()]))
    numbers = [t.number - 1 for t in shown]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 60
    assert not any(n % 10 == 9 for n in numbers)
    assert {n for n in range(137, 163) if n % 10 != 9} <= set(numbers)  # the best
    assert min(numbers) < 30
    assert max(numbers) > 270

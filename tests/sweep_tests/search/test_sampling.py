"""The unit cube, ranks, the first design and what is proposed, on spaces of every kind."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from sweep.core.config import SweepConfig
from sweep.core.trial import State, TrialRecord
from sweep.search.sampling import cma_es
from sweep.search.sampling.rank_gp import design, propose, score
from sweep.search.sampling.sampler import Sampler
from sweep.search.sampling.unit_cube import UnitCube
from sweep.search.trial_table import TrialTable

SPACE = {
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
    "data.augment.rotation": {"uniform": [0, 60]},
    "optim.accumulate": {"int": [1, 4]},
    "optim.batch_size": {"log_int": [2, 64]},
    "loss.name": {"choice": ["star", "wing", "smooth_l1"]},
    "loss.star_weight": {"log_uniform": [0.01, 100], "when": {"loss.name": "star"}},
}
EPOCHS = 4


def make_config(space: dict = SPACE, **more) -> SweepConfig:
    return SweepConfig(**{"space": space, "train": {"optim": {"epochs": EPOCHS}}, **more})


def cube(space: dict = SPACE) -> UnitCube:
    return UnitCube(make_config(space).dimensions)


# The cube


def test_a_configuration_lies_where_it_should():
    params = {
        "optim.lr": 1e-3,
        "data.augment.rotation": 15.0,
        "optim.accumulate": 2,
        "optim.batch_size": 64,
        "loss.name": "wing",
    }
    made = cube()
    point = made.points([params])
    np.testing.assert_allclose(point, [[0.5, 0.25, 1 / 3, 1.0, 1.0, math.nan]])
    np.testing.assert_allclose(made.coordinates(point), [[0.5, 0.25, 1 / 3, 1.0, 0.0, math.sqrt(0.5), 0.0, 0.5]])
    assert made.owners.tolist() == [0, 1, 2, 3, 4, 4, 4, 5]
    assert made.params(point[0]) == pytest.approx(params)


def test_two_values_of_a_choice_are_as_far_apart_as_the_ends_of_a_range():
    made = cube({"loss.name": {"choice": ["star", "wing", "smooth_l1"]}})
    near, far = made.coordinates(np.array([[0.0], [2.0]]))
    assert np.linalg.norm(near - far) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_spread_or_moved_is_in_the_space_and_comes_back(seed):
    made, rng = cube(), np.random.default_rng(seed)
    config = make_config()
    moved = made.from_uniform(rng.random((200, 6)), conditions=False) + rng.normal(size=(200, 6)) * ~made.choices
    for points in (made.from_uniform(rng.random((200, 6))), made.snap(moved)):
        given = [made.params(point) for point in points]
        np.testing.assert_allclose(made.points(given), points, atol=1e-9)
        for params in given:
            assert ("loss.star_weight" in params) is (params["loss.name"] == "star")
            for d in config.dimensions:
                assert d.key not in params or d.contains(params[d.key])
            config.train.replace(params)


def test_integers_and_choices_are_drawn_equally_often():
    made = cube({key: SPACE[key] for key in ("optim.accumulate", "loss.name")})
    points = made.from_uniform(np.random.default_rng(0).random((6000, 2)))
    assert all(abs(np.mean(np.isclose(points[:, 0], i / 3)) - 1 / 4) < 0.03 for i in range(4))
    assert all(abs(np.mean(points[:, 1] == i) - 1 / 3) < 0.03 for i in range(3))


# Ranks


def ranks(*rungs: str) -> str:
    """Trials by rank, the best first; each is a letter, each rung the order of those that came to it."""
    found = score([[(float(i), ord(letter)) for i, letter in enumerate(rung)] for rung in rungs])
    return "".join(map(chr, found.numbers))


def test_those_that_came_further_are_sorted_anew_over_the_ranks_that_they_had():
    assert ranks("abcdef", "") == "abcdef"
    assert ranks("abcdef", "ca") == "cbadef"
    assert ranks("abcdef", "ba") == "bacdef"
    assert ranks("abcdef", "dca") == "dbcaef"
    assert ranks("abcdef", "dca", "ad") == "abcdef"
    assert ranks("abcdef", "dca", "cd") == "cbdaef"


def test_scores_are_normal_and_there_is_one_for_each_trial_and_rung():
    found = score([[(0.1, 7), (0.2, 3), (0.2, 5), (math.inf, 1)], [(0.05, 3), (0.06, 7)], [(0.01, 7)]])
    assert found.numbers.tolist() == [3, 7, 5, 1]
    numbers, ranks = found.numbers[found.trials].tolist(), norm.cdf(found.values) * 4 + 0.5
    assert list(zip(numbers, found.early.tolist(), ranks, strict=True)) == [
        (7, 1.0, pytest.approx(1)),
        (3, 1.0, pytest.approx(2)),
        (5, 1.0, pytest.approx(3)),
        (1, 1.0, pytest.approx(4)),
        (3, 0.5, pytest.approx(1)),  # takes the rank of 7
        (7, 0.5, pytest.approx(2)),
        (7, 0.0, pytest.approx(2)),  # alone there, it keeps its rank
    ]
    assert list(found.by_number()) == [3, 7, 5, 1]
    assert [round(norm.cdf(value) * 4 + 0.5) for value in found.by_number().values()] == [1, 2, 3, 4]


def test_nobody_has_no_scores_and_one_is_in_the_middle():
    assert score([[], []]).numbers.size == 0
    assert score([[(0.1, 4)]]).by_number() == {4: 0.0}


def test_of_many_trials_the_best_and_an_even_part_of_the_others_are_taken():
    found = score([[(float(n), n) for n in range(1000)], [(float(n), n) for n in range(0, 1000, 3)]])
    kept = found.thinned(200)
    best = kept.numbers[:100].tolist()
    assert best == found.numbers[:100].tolist()
    assert len(set(kept.numbers.tolist())) == 200
    places = {number: place for place, number in enumerate(found.numbers.tolist())}
    assert places[int(kept.numbers[-1])] == 999
    assert max(np.diff([places[int(n)] for n in kept.numbers[100:]])) <= 10
    for number, value in kept.by_number().items():
        assert value == found.by_number()[number]
    assert len(kept.values) == sum(1 + (n % 3 == 0) for n in kept.numbers.tolist())
    assert found.thinned(1000) is found


# The first design


def test_the_first_design_spreads_over_the_space():
    made = cube()
    points = made.points([design(made, index, seed=3) for index in range(16)])
    for column in range(2):
        assert sorted(np.floor(points[:, column] * 16).astype(int)) == list(range(16))  # one in each cell
    assert {int(value) for value in points[:, 4]} == {0, 1, 2}
    assert np.isfinite(points).all()  # a value for each setting, also where its condition does not hold


def test_the_first_design_is_that_of_its_seed():
    made = cube()
    assert design(made, 5, 0) == design(made, 5, 0) != design(made, 5, 1)


# What is proposed


def searched(space: dict, value, trials: int, seed: int = 0, **sampler) -> list[TrialRecord]:
    """Trials that were suggested one after the other, each trained to its end."""
    config = make_config(space, seed=seed, trials=trials, sampler={"random_share": 0.0, **sampler})
    table = TrialTable(config)
    for number in range(trials):
        params = Sampler(config, table).suggest(number, {})
        nme = value(params)
        state = State.DIVERGED if nme is None else State.COMPLETE
        curve = {} if nme is None else {epoch: nme + 0.01 / epoch for epoch in range(1, EPOCHS + 1)}
        table.upsert(TrialRecord(number, params, state, curve))
    return list(table)


def bowl(params: dict) -> float:
    """Least at lr 1e-3 and weight 1."""
    return 0.05 + 0.01 * math.log10(params["optim.lr"] / 1e-3) ** 2 + 0.01 * math.log10(params["loss.star_weight"]) ** 2


TWO = {"optim.lr": SPACE["optim.lr"], "loss.star_weight": {"log_uniform": [0.01, 100]}}


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_bottom_of_a_bowl(seed):
    records = searched(TWO, bowl, 30, seed)
    best = min(records[14:], key=lambda r: r.best_nme)
    assert bowl(best.params) < 0.0515


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_the_best_that_lies_at_an_end(seed):
    """Candidates are clipped to the range, so that its end itself can be proposed."""
    records = searched(
        TWO, lambda p: 0.05 - 0.01 * math.log10(p["optim.lr"]) - 0.01 * math.log10(p["loss.star_weight"]), 30, seed
    )
    assert any(r.params["optim.lr"] == 1e-2 for r in records[14:])
    assert any(r.params["loss.star_weight"] == 100 for r in records[14:])


def test_proposals_keep_their_distance_from_all_trials():
    records = searched(TWO, bowl, 30)
    made = cube(TWO)
    places = made.coordinates(made.points([r.params for r in records]))
    for number in range(15, 30):
        assert np.linalg.norm(places[:number] - places[number], axis=1).min() > 0.999 / math.sqrt(math.pi * number)


def test_a_finite_space_is_proposed_once_and_then_nothing():
    space = {"optim.accumulate": {"int": [1, 4]}, "loss.name": {"choice": ["star", "wing", "smooth_l1"]}}
    made = cube(space)
    params = [
        made.params(p) for p in made.from_uniform(np.array([[i / 4, j / 3] for i in range(4) for j in range(3)]) + 0.01)
    ]
    known = score([[(float(i), i) for i in range(11)]])
    assert propose(made, made.points(params[:11]), known, [], 0) == params[11]
    assert propose(made, made.points(params), known, [], 0) is None


def test_it_learns_choices_and_what_depends_on_them():
    def value(params: dict) -> float:
        return bowl({"optim.lr": params["optim.lr"], "loss.star_weight": params.get("loss.star_weight", 30.0)})

    records = searched(SPACE, value, 40)
    late = records[25:]
    assert sum(r.params["loss.name"] == "star" for r in late) > len(late) / 2
    assert min(value(r.params) for r in late) < 0.052


def test_it_stays_away_from_where_trials_diverge():
    records = searched(TWO, lambda p: None if p["optim.lr"] > 3e-3 else bowl(p), 40)
    assert sum(r.state is State.DIVERGED for r in records[14:]) <= 6  # of 26; a quarter of the space diverges


def test_trials_that_are_on_their_way_are_not_asked_for_again():
    config = make_config(TWO, sampler={"random_share": 0.0})
    table = TrialTable(config, searched(TWO, bowl, 20))
    asked = []
    for number in range(20, 26):
        asked.append(Sampler(config, table).suggest(number, {}))
        table.upsert(TrialRecord(number, asked[-1]))
    places = cube(TWO).points(asked)
    apart = np.linalg.norm(places[:, None] - places, axis=2)[np.triu_indices(6, 1)]
    assert apart.min() > 0.999 / math.sqrt(math.pi * 26)


@pytest.mark.parametrize("name", ["rank_gp", "tpe", "gp", "cmaes", "random"])
def test_a_part_that_is_given_is_kept_and_the_rest_fits_to_it(name):
    config = make_config(sampler={"name": name})
    for number, fixed in [(0, {"loss.name": "star"}), (3, {"loss.name": "wing"}), (50, {"loss.name": "star"})]:
        params = Sampler(config, TrialTable(config)).suggest(number, fixed)
        assert params.items() >= fixed.items()
        assert ("loss.star_weight" in params) is (params["loss.name"] == "star")


@pytest.mark.parametrize("name", ["rank_gp", "tpe", "cmaes"])
def test_a_share_of_trials_is_drawn_at_random(name):
    config = make_config(TWO, sampler={"name": name, "random_share": 0.15})
    sampler = Sampler(config, TrialTable(config, searched(TWO, bowl, 20)))
    drawn = Sampler(make_config(TWO, sampler={"name": "random"}), TrialTable(config))
    same = sum(sampler.suggest(number, {}) == drawn.suggest(number, {}) for number in range(20, 220))
    assert 18 <= same <= 42


def test_optunas_samplers_see_the_scores_and_who_is_on_the_way():
    config = make_config(TWO, sampler={"name": "tpe"})
    records = searched(TWO, bowl, 6)
    table = TrialTable(config, [*records, TrialRecord(6, records[0].params), TrialRecord(7, {}, State.FAILED)])
    sampler = Sampler(config, table)
    shown = sampler._history(score([rung.reached for rung in table.rungs.values()]))
    assert [trial.number - 1 for trial in shown] == [0, 1, 2, 3, 4, 5, 6]
    order = sorted(range(6), key=lambda n: records[n].best_nme)
    assert sorted(range(6), key=lambda n: shown[n].value) == order
    assert shown[6].value is None


# CMA-ES


def told(count: int, best: tuple[float, float] = (0.8, 0.2)) -> tuple[np.ndarray, dict[int, float]]:
    """Points of a plane, and how far they lie from the best one."""
    points = np.random.default_rng(0).random((count, 2))
    return points, dict(enumerate(((points - best) ** 2).sum(1).tolist()))


@pytest.mark.parametrize("seed", range(2))
def test_it_comes_closer_to_the_best_from_generation_to_generation(seed):
    values = [bowl(r.params) - 0.05 for r in searched(TWO, bowl, 80, seed, name="cmaes")]
    assert np.mean(values[60:]) < 0.1 * np.mean(values[:14])


def test_what_is_no_whole_generation_is_not_told_yet():
    points, scores = told(6)
    assert cma_es.propose(cube(TWO), points, dict(list(scores.items())[:5]), 3) == cma_es.propose(
        cube(TWO), points, {}, 3
    )
    assert cma_es.propose(cube(TWO), points, scores, 3) != cma_es.propose(cube(TWO), points, {}, 3)


def test_the_order_in_which_trials_were_ranked_means_nothing():
    points, scores = told(60)
    turned = dict(sorted(scores.items(), key=lambda pair: pair[1]))
    assert cma_es.propose(cube(TWO), points, turned, 5) == cma_es.propose(cube(TWO), points, scores, 5)


def test_choices_are_drawn_and_conditions_hold():
    made, rng = cube(), np.random.default_rng(1)
    points = made.from_uniform(rng.random((40, 6)))
    scores = dict(enumerate(rng.random(40).tolist()))
    asked = [cma_es.propose(made, points, scores, seed) for seed in range(60)]
    assert {params["loss.name"] for params in asked} == {"star", "wing", "smooth_l1"}
    assert all(("loss.star_weight" in params) is (params["loss.name"] == "star") for params in asked)
    assert all(isinstance(params["optim.accumulate"], int) for params in asked)


def test_a_space_of_one_range_has_no_covariance():
    one = cube({"optim.lr": TWO["optim.lr"]})
    assert cma_es.propose(one, np.array([[0.5]]), {0: 1.0}, 0) is None
    config = make_config({"optim.lr": TWO["optim.lr"]}, sampler={"name": "cmaes", "startup_trials": 1})
    records = [TrialRecord(n, {"optim.lr": 1e-3}, curve=dict.fromkeys(range(1, EPOCHS + 1), 0.1)) for n in range(3)]
    assert 1e-4 <= Sampler(config, TrialTable(config, records)).suggest(3, {})["optim.lr"] <= 1e-2

"""What reruns show, on errors made by hand: pairs, intervals, faces that were not measured, and the words for it."""

import math

import numpy as np
import pytest

from sweep.analysis.findings import FinalTest, Reproduction
from sweep.analysis.rerun_evaluation import compare_seeds
from sweep.analysis.rerun_jobs import Job
from sweep.core.trial import State, TrialRecord
from trainer.config import TrainConfig
from trainer.run_folder import FACES_FILE

FACES = 40
RNG = np.random.default_rng(3)
HARD = RNG.uniform(0.02, 0.2, FACES)  # some faces are hard for every network
LUCK = np.array([0.0, 0.02, -0.01])  # some seeds are good for every config


@pytest.fixture
def jobs(tmp_path):
    """Makes the runs of a trial whose validation errors are these, (S, N)."""

    def make(trial, errors):
        record, made = TrialRecord(trial, {"optim.lr": 1e-3}, State.COMPLETE), []
        for seed, row in enumerate(errors, 1):
            run = f"seed-{trial:04d}-{seed}"
            (tmp_path / run).mkdir()
            np.save(tmp_path / run / FACES_FILE, row)
            config = TrainConfig().replace({"run.seed": seed, "run.output": str(tmp_path / run)})
            made.append(Job(run, "seed", record, config))
        return made

    return make


def test_mean_and_spread_are_over_seeds(jobs):
    errors = HARD + LUCK[:, None]
    found = compare_seeds(jobs(4, errors), [])
    winner = found.winner
    assert (winner.trial, winner.seeds) == (4, [1, 2, 3])
    assert winner.nme == pytest.approx(errors.mean(1))
    assert winner.mean == pytest.approx(errors.mean())
    assert winner.std == pytest.approx(0.02 * math.sqrt(7 / 12))  # of 0, 0.02 and -0.01
    assert found.runner_up is None
    assert set(found.metrics) == {"seeds/nme_mean", "seeds/nme_std"}
    assert "trial 4 with 3 other seeds" in found.text
    assert "there is no other complete trial to compare it with" in found.text


def test_the_same_errors_differ_by_exactly_nothing(jobs):
    errors = HARD + LUCK[:, None]
    found = compare_seeds(jobs(0, errors), jobs(1, errors))
    assert found.difference == 0
    assert found.interval == [0, 0]
    assert found.distinguishable is False
    assert "it cannot be told from the winner" in found.text


@pytest.mark.parametrize(("worse", "told"), [(0.001, "it is worse"), (-0.001, "it is better than the winner")])
def test_a_small_difference_of_every_pair_is_seen_through_large_spreads(jobs, worse, told):
    """Faces differ by 0.18 and seeds by 0.03, the two configs by 0.001: only pairs show it."""
    errors = HARD + LUCK[:, None]
    found = compare_seeds(jobs(0, errors), jobs(1, errors + worse))
    assert found.interval == pytest.approx([worse, worse])
    assert found.distinguishable is True
    assert found.metrics["seeds/difference"] == pytest.approx(worse)
    assert told in found.text
    assert f"{worse * 100:+.2f} points" in found.text


def test_without_pairs_the_same_difference_is_lost(jobs):
    errors = HARD + LUCK[:, None]
    other = HARD[::-1] + LUCK[::-1, None] + 0.001
    found = compare_seeds(jobs(0, errors), jobs(1, other))
    assert found.difference == pytest.approx(0.001)
    assert found.distinguishable is False
    low, high = found.interval
    assert low < 0 < high
    assert "cannot be told" in found.text


def test_noise_alone_is_not_taken_for_a_difference(jobs):
    rng = np.random.default_rng(0)
    first, second = (HARD + rng.normal(0, 0.02, (5, FACES)) for _ in range(2))
    found = compare_seeds(jobs(0, first), jobs(1, second))
    assert found.distinguishable is False


def test_faces_that_were_not_measured_do_not_count(jobs):
    errors = HARD + LUCK[:, None]
    holes = errors.copy()
    holes[:, 3] = np.nan
    found = compare_seeds(jobs(0, holes), jobs(1, holes + 0.01))
    known = np.delete(errors, 3, axis=1)
    assert found.winner.nme == pytest.approx(known.mean(1))
    assert found.interval == pytest.approx([0.01, 0.01])
    assert "nan" not in found.text


def test_the_same_runs_give_the_same_finding(jobs):
    errors = np.random.default_rng(1).uniform(0, 0.1, (4, 3, FACES))
    first = compare_seeds(jobs(0, errors[0]), jobs(1, errors[1]))
    again = compare_seeds(jobs(2, errors[0]), jobs(3, errors[1]))
    assert first.interval == again.interval
    assert first.metrics == again.metrics


def test_one_seed_has_no_spread_and_decides_nothing(jobs):
    """How far seeds scatter cannot be known from one; its faces alone must not call the lead luck."""
    found = compare_seeds(jobs(0, HARD[None] + 0.01), jobs(1, HARD[None]))
    assert math.isnan(found.winner.std)
    assert found.distinguishable is False
    assert "nan" not in found.text


# The words for a repetition

SAME = {"trial": 3, "before": 0.05, "again": 0.05, "identical": True, "first_difference": None, "epochs": 12}


def test_words_for_the_same_bits():
    assert Reproduction(**SAME).text == (
        "trial 3 again: val NME 5.0000%, identical, and so is every loss and metric of 12 epochs"
    )


def test_words_for_the_same_result_by_another_way():
    text = Reproduction(**SAME | {"first_difference": 7}).text
    assert text == "trial 3 again: val NME 5.0000%, identical; other values differ from epoch 7"


def test_words_for_another_result():
    text = Reproduction(**SAME | {"again": 0.0512, "identical": False, "first_difference": 2}).text
    assert text.startswith("trial 3 again: val NME ")
    assert " not the " in text
    assert "+0.12" in text  # points
    assert "they part at epoch 2" in text
    assert "identical" not in text


def test_words_for_a_difference_in_the_last_digit_show_one():
    """Two numbers that are said to differ must not look the same."""
    again = math.nextafter(0.05, 1)
    text = Reproduction(**SAME | {"again": again, "identical": False, "first_difference": 12}).text
    assert "+0.0000%" not in text
    assert "5.0000%, not the 5.0000%" not in text


def test_words_for_the_test_split():
    detail = {
        "trial": 2,
        "runs": ["final-0002-0"],
        "nme_of_seeds": [0.045],
        "nme": 0.045,
        "fr10": 0.02,
        "auc10": 0.551,
        "std": 0.001,
        "seeds": [0, 1, 2],
        "interval": [0.044, 0.046],
        "faces": 300,
        "subsets": {"blur": {"nme": 0.06}},
        "parts": {"nose": 0.03},
    }
    first, *rest = FinalTest.from_detail(detail).text.splitlines()
    assert first == (
        "trial 2, trained on train + val: test NME 4.50% +- 0.10% over 3 seeds (95 %: 4.40% to 4.60%), "
        "FR@0.10 2.00%, AUC@0.10 0.5510, 300 faces"
    )
    assert [line.split() for line in rest] == [["blur", "NME", "6.00%"], ["nose", "NME", "3.00%"]]
    assert " over " not in FinalTest.from_detail(detail | {"std": None, "seeds": [0]}).text

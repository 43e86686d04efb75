"""Who won, in the files, in Markdown and on the console."""

import csv

import pytest
import yaml
from told_trials import RECORDS, record

from sweep.analysis import leaderboard
from sweep.core.config_file import load_sweep
from sweep.core.formatting import format_seconds
from sweep.core.trial import State, TrialRecord
from sweep.driver.outputs import SweepOutputs, kept_trials
from sweep.search import ranking
from trainer import engine
from trainer.config import TrainConfig

KEYS = ("optim.lr", "loss.star_weight")
ORDER = [4, 1, 7, 5, 6, 0, 9, 3, 8, 10, 2]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "faces.yaml"
    space = {"optim.lr": {"log_uniform": [1e-4, 1.0]}, "loss.star_weight": {"uniform": [0, 10]}}
    data = {"image_size": 32, "train_faces": 8, "val_faces": 4, "workers": 0, "cache_dir": str(tmp_path / "cache")}
    train = {
        "data": data,
        "model": {"backbone": "resnet18", "width": 8},
        "optim": {"epochs": 2, "batch_size": 4},
    }
    path.write_text(yaml.safe_dump({"space": space, "train": train, "trials": 12}, sort_keys=False))
    config = load_sweep(path, {"output": str(tmp_path / "out")})
    config.folder.mkdir(parents=True)
    return config


def test_complete_before_stopped_before_diverged_before_failed_each_by_nme():
    assert [r.number for r in ranking.rank(RECORDS)] == ORDER
    assert [r.number for r in ranking.rank(RECORDS[::-1])] == ORDER
    assert ranking.rank([]) == []


def test_the_winner_is_complete():
    winner = ranking.best(RECORDS)
    assert winner is not None
    assert winner.number == 4
    assert ranking.best([r for r in RECORDS if r.state is not State.COMPLETE]) is None
    assert ranking.best([]) is None


def test_a_tie_goes_to_the_lower_number():
    tie = [record(n, "COMPLETE", 0.1) for n in (3, 1, 2)]
    assert [r.number for r in ranking.rank(tie)] == [1, 2, 3]
    assert ranking.best(tie).number == 1


def test_the_table_has_these_columns_and_exact_numbers(config):
    SweepOutputs(config).update(RECORDS)
    with (config.folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["number", "state", "best_nme", "epochs", "seconds", *KEYS, "seed", "repeats"]
    assert [int(row[0]) for row in rows[1:]] == ORDER
    assert rows[1] == ["4", "COMPLETE", "0.1", "2", "1.0", "0.005", "0.5", "", ""]
    assert rows[2] == ["1", "COMPLETE", "0.2", "2", "12.3", "0.002", "0.5", "", ""]
    assert rows[-1] == ["2", "FAILED", "", "0", "1.0", "0.003", "0.5", "", ""]
    third = TrialRecord(0, {"optim.lr": 1 / 3, "loss.star_weight": 2.0}, State.COMPLETE, {1: 0.1 + 0.2})
    SweepOutputs(config).update([third])
    with (config.folder / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert (float(row["best_nme"]), float(row["optim.lr"])) == (0.1 + 0.2, 1 / 3)  # to the last bit


def test_results_appear_whole_and_leave_no_temporary_files(config):
    SweepOutputs(config).update(RECORDS)
    SweepOutputs(config).update(RECORDS)
    assert sorted(path.name for path in config.folder.iterdir()) == ["best.yaml", "leaderboard.csv"]


def test_without_a_winner_there_is_no_best_config(config):
    SweepOutputs(config).update([record(0, "PRUNED", 0.1)])
    assert [path.name for path in config.folder.iterdir()] == ["leaderboard.csv"]


def test_the_best_config_trains_elsewhere_as_it_stands(config, tmp_path):
    SweepOutputs(config).update(RECORDS)
    best = TrainConfig.load(config.folder / "best.yaml")
    assert best.run.output is None
    assert (best.optim.lr, best.loss.star_weight) == (0.005, 0.5)
    assert best.identity() == config.trial_config(RECORDS[4]).identity()
    result = engine.train(TrainConfig.load(config.folder / "best.yaml", {"run.output": str(tmp_path / "elsewhere")}))
    assert result.epochs == 2
    assert (tmp_path / "elsewhere" / "best.pt").exists()


@pytest.mark.parametrize(
    ("keep", "kept"), [("1", {4}), ("3", {4, 1, 7}), ("5", {4, 1, 7, 5, 6}), ("40", {4, 1, 7, 5, 6, 0, 3, 10})]
)
def test_the_best_are_kept_if_they_have_an_nme(keep, kept, config, tmp_path):
    config = load_sweep(tmp_path / "faces.yaml", {"keep": keep, "repeats.share": "0"})
    assert kept_trials(config, RECORDS) == kept


def test_the_disk_of_a_trial_is_bounded(config):
    """While it runs it has its whole state; then the best `keep` have their weights until they are overtaken."""
    records = [record(n, "COMPLETE", 0.5 - n / 100) for n in range(6)]  # each better than the one before
    results = SweepOutputs(config)
    for n in range(6):
        folder = config.trial_folder(n)
        folder.mkdir(parents=True)
        for name in ("last.pt", "best.pt", ".last.pt.123", "metrics.jsonl"):
            (folder / name).touch()
        results.update([*records[:n], record(n, "RUNNING", 0.4)])
        assert (folder / "last.pt").exists()
        results.update(records[: n + 1])
    files = {n: sorted(path.name for path in config.trial_folder(n).iterdir()) for n in range(6)}
    small, large = ["metrics.jsonl"], ["best.pt", "metrics.jsonl"]
    assert files == {0: small, 1: small, 2: small, 3: large, 4: large, 5: large}
    assert config.keep == 3


def weights(config) -> set[int]:
    return {int(path.parent.name) for path in config.folder.glob("trials/*/best.pt")}


def with_weights(config, records) -> SweepOutputs:
    for r in records:
        config.trial_folder(r.number).mkdir(parents=True)
        (config.trial_folder(r.number) / "best.pt").touch()
    return SweepOutputs(config)


def test_a_trial_that_others_overtook_while_it_was_paused_has_its_weights_when_it_wins(config):
    """Complete trials rank before it, but its NME at the rung was better, and no later epoch is: nothing is written."""
    paused, others = record(0, "PAUSED", 0.1), [record(n, "COMPLETE", 0.3, 0.2) for n in range(1, 6)]
    results = with_weights(config, [paused, *others])
    for n in range(6):
        results.update([paused, *others[:n]])
    results.update([record(0, "COMPLETE", 0.1, 0.1), *others])
    assert ranking.best([record(0, "COMPLETE", 0.1, 0.1), *others]).number == 0
    assert weights(config) == {0, 1, 2}


def test_whoever_may_yet_win_by_its_mean_has_its_weights_when_it_does(config, tmp_path):
    """The repeats of the first two candidates stand before the third, until its own are better than theirs."""
    first = [record(n, "COMPLETE", 0.30 + n / 100) for n in range(5)]
    nmes = [0.40, 0.41, 0.33, 0.40, 0.41, 0.33]  # of the candidates 0, 1, 2 in turn
    repeats = [
        TrialRecord(5 + i, first[i % 3].params, State.COMPLETE, {1: nme}, seed=1 + i // 3, replicate_of=i % 3)
        for i, nme in enumerate(nmes)
    ]
    config = load_sweep(tmp_path / "faces.yaml", {"keep": "2", "output": str(tmp_path / "out")})
    records = first + repeats
    results = with_weights(config, records)
    for count in range(len(records) + 1):
        results.update(records[:count])
        assert count < 3 or {0, 1, 2} <= weights(config)
    assert ranking.best(records).number == 2
    assert weights(config) == {0, 1, 2, 7}  # and the best repeat of the winner, which ranks second


def test_many_ends_in_a_second_are_one_table(config, monkeypatch):
    clock = iter([10.0, 10.0, 10.4, 11.1, 11.1])
    monkeypatch.setattr("sweep.driver.outputs.time.monotonic", lambda: next(clock))
    results, path = SweepOutputs(config), config.folder / "leaderboard.csv"

    def rows(count: int, **more) -> int:
        results.update([record(n, "COMPLETE", 0.5) for n in range(count)], **more)
        return len(path.read_text().splitlines()) - 1

    assert rows(1, final=False) == 1
    assert rows(2, final=False) == 1  # 0.4 s later
    assert rows(3, final=False) == 3  # 1.1 s later
    monkeypatch.setattr("sweep.driver.outputs.time.monotonic", lambda: 11.2)
    assert rows(4) == 4  # the last call


def test_markdown_lists_the_best_under_a_summary():
    lines = leaderboard.markdown(RECORDS, rows=2).splitlines()
    assert lines == [
        "11 trials: 2 running, 3 complete, 2 pruned, 2 diverged, 2 failed; best val NME 10.00% (trial 4)",
        "",
        "| trial | state | best val NME | epochs | lr | star_weight |",
        "|---|---|---|---|---|---|",
        "| 4 | COMPLETE | 10.00% | 2 | 0.005 | 0.5 |",
        "| 1 | COMPLETE | 20.00% | 2 | 0.002 | 0.5 |",
    ]
    assert "| 2 | FAILED | - | 0 | 0.003 | 0.5 |" in leaderboard.markdown(RECORDS, rows=20)


def test_an_empty_sweep_has_a_summary_too():
    assert leaderboard.markdown([]).startswith("0 trials: none\n")


# What the ranking rests on


def measured(number: int, nme: float, speed: float, failures: float, state: str = "COMPLETE") -> TrialRecord:
    return record(number, state, nme, metrics={"images_per_second": speed, "val/fr10": failures})


TWO = [
    measured(0, 0.05, 100.04, 0.20),
    measured(1, 0.06, 300.0, 0.10),
    measured(2, 0.07, 200.0, 0.15),  # trial 1 is better in all three
    measured(3, 0.04, 900.0, 0.01, "PRUNED"),
    record(4, "FAILED"),
]


def test_one_objective_and_no_repeats_need_no_words():
    assert leaderboard.notes(TWO, ("nme",)) == []
    assert leaderboard.notes([], ("nme",)) == []


@pytest.mark.parametrize(
    ("objective", "points"),
    [
        ("images_per_second", "trial 0 5.00%, 100.0 images/s; trial 1 6.00%, 300.0 images/s"),
        ("fr10", "trial 0 5.00%, FR@0.10 20.00%; trial 1 6.00%, FR@0.10 10.00%"),
    ],
)
def test_the_front_of_two_objectives_is_named(objective, points):
    line = f"Pareto front of NME and {objective}: {points}"
    assert leaderboard.notes(TWO, ("nme", objective)) == [line]
    lines = leaderboard.markdown(TWO, ("nme", objective)).splitlines()
    assert lines[1:3] == [line, ""]
    assert leaderboard.markdown(TWO).splitlines()[1] == ""


def test_without_a_complete_trial_the_front_is_empty():
    for records in ([], TWO[3:]):
        (line,) = leaderboard.notes(records, ("nme", "fr10"))
        assert line == "Pareto front of NME and fr10: no complete trial"


def test_means_over_seeds_are_told_with_their_intervals():
    records = [
        record(0, "COMPLETE", 0.10),
        record(1, "COMPLETE", 0.11),
        record(2, "COMPLETE", 0.12, seed=1, replicate_of=0),
        record(3, "COMPLETE", 0.11, seed=1, replicate_of=1),
        record(4, "COMPLETE", 0.09),  # was never repeated
    ]
    # about their means 11 % each: (1/11)^2 * 2 over 2 degrees of freedom, so 1/11 of 11 % is 1 point; t = 4.303
    assert leaderboard.notes(records, ("nme",)) == [
        "chosen by the mean over seeds (95 % interval): trial 0 11.00% (7.96% to 14.04%, 2 runs), "
        "trial 1 11.00% (7.96% to 14.04%, 2 runs)"
    ]
    both = leaderboard.notes(records, ("nme", "fr10"))
    assert [line.partition(" ")[0] for line in both] == ["chosen", "Pareto"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.4, "45 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (5399, "90 min"),
        (5400, "1 h 30 min"),
        (11100, "3 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_seconds_for_people(seconds, text):
    assert format_seconds(seconds) == text

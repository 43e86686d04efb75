"""Anybody's learning curves: tables that are read, the spaces that they tell, and sweeps that are compared on them."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from harness import call
from waiting import PATIENCE

from sweep import simulate
from sweep.core.search_space import Dimension
from sweep.simulation import repeated
from sweep.simulation.curve_table import read_table
from sweep.simulation.foreign_sweep import load_foreign, space_of
from sweep.simulation.recorded_curves import NME, Curve, Metric, RecordedCurves
from sweep.simulation.simulator import History
from sweep.simulation.surrogate import NearestTask
from trainer.errors import ConfigError

EPOCHS = 6
COUNT = 60


def trainings(count: int = COUNT, seeds: int = 2) -> pd.DataFrame:
    """Somebody's trainings, a row an epoch: the error falls to what depends on lr and the optimizer."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        lr = 10 ** rng.uniform(-4, 0)
        optimizer, depth = ("sgd", "adam")[number % 2], int(rng.integers(1, 9))
        end = 0.1 + 0.05 * (math.log10(lr) + 2) ** 2 + 0.1 * (optimizer == "sgd")
        for seed in range(seeds):
            for epoch in range(1, EPOCHS + 1):
                error = end * (1 + 1 / epoch) + 0.001 * seed
                rows.append([number * seeds + seed, lr, optimizer, depth, seed, epoch, error, 1 - error, 2.0])
    names = ["trial", "lr", "optimizer", "depth", "seed", "epoch", "error", "accuracy", "seconds"]
    return pd.DataFrame(rows, columns=names)


def read(frame: pd.DataFrame, folder: Path, metric: str = "error", **given) -> RecordedCurves:
    frame.to_csv(folder / "table.csv", index=False)
    return read_table(folder / "table.csv", metric, **{"maximize": False, "keys": None} | given)


# Reading


def test_each_training_is_a_curve(tmp_path):
    curves = read(trainings(3), tmp_path)
    assert curves.epochs == EPOCHS
    assert len(curves.curves) == 6
    first = trainings(3).query("trial == 0")
    lr, depth = float(first.lr.iloc[0]), int(first.depth.iloc[0])
    assert curves.curves[0] == Curve(
        {"lr": pytest.approx(lr), "optimizer": "sgd", "depth": depth}, 0, pytest.approx(tuple(first.error)), (2.0,) * 6
    )
    assert isinstance(curves.curves[0].params["depth"], int)
    assert [c.seed for c in curves.curves] == [0, 1] * 3


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_all_kinds_of_tables_hold_the_same(ending, tmp_path):
    frame, path = trainings(4), tmp_path / f"table{ending}"
    frame.to_parquet(path) if ending == ".parquet" else frame.to_csv(path, index=False)
    curves = read_table(path, "error", maximize=False, keys=None)
    assert curves.curves == read(frame, tmp_path).curves


def test_without_a_column_of_trainings_all_other_columns_are_parameters(tmp_path):
    curves = read(trainings(4).drop(columns=["trial", "accuracy", "seconds"]), tmp_path)
    assert [set(c.params) for c in curves.curves] == [{"lr", "optimizer", "depth"}] * 8
    assert curves.curves[0].seconds == (1.0,) * EPOCHS


def test_parameters_that_are_named_are_the_only_ones(tmp_path):
    curves = read(trainings(4), tmp_path, keys=["lr"])
    assert [set(c.params) for c in curves.curves] == [{"lr"}] * 8


def test_epochs_may_be_steps_and_begin_anywhere(tmp_path):
    frame = trainings(4)
    expected = read(frame, tmp_path).curves
    assert read(frame.assign(epoch=(frame.epoch - 1) * 250), tmp_path).curves == expected
    assert read(frame.sample(frac=1, random_state=0).sort_values("trial", kind="stable"), tmp_path).curves == expected


def test_a_training_that_ends_early_or_has_no_number_has_diverged_there(tmp_path):
    frame = trainings(4)
    frame.loc[(frame.trial == 0) & (frame.epoch > 3), "error"] = math.nan
    frame.loc[(frame.trial == 1) & (frame.epoch > 4), "error"] = math.inf
    curves = read(frame[(frame.trial != 2) | (frame.epoch < 3)], tmp_path)
    assert [len(c.nme) for c in curves.curves] == [3, 4, 2, *(EPOCHS,) * 5]


def test_a_parameter_that_is_not_there_is_left_out_and_integers_stay_integers(tmp_path):
    frame = trainings(4)
    frame.loc[frame.optimizer == "sgd", "depth"] = math.nan
    params = [c.params for c in read(frame, tmp_path).curves]
    assert ["depth" in p for p in params] == [p["optimizer"] == "adam" for p in params]
    assert all(isinstance(p["depth"], int) for p in params if "depth" in p)


def test_more_may_be_better(tmp_path):
    frame = trainings(4)
    curves = read(frame, tmp_path, metric="accuracy", maximize=True)
    falls = [np.diff(c.nme) for c in curves.curves]
    assert np.max(falls) < 0
    assert min(min(c.nme) for c in curves.curves) > 0
    shown = [float(curves.metric.shown(c.nme[-1])) for c in curves.curves]
    assert shown == pytest.approx(list(frame[frame.epoch == EPOCHS].accuracy), abs=1e-3)


def test_numbers_below_zero_are_moved_above_it_and_shown_as_they_were(tmp_path):
    frame = trainings(4)
    curves = read(frame.assign(error=frame.error - 1), tmp_path)
    assert min(min(c.nme) for c in curves.curves) > 0
    assert curves.metric.shown(curves.curves[0].nme[-1]) == f"{frame.error[EPOCHS - 1] - 1:.4g}"


@pytest.mark.parametrize(
    ("change", "metric", "told"),
    [
        (lambda f: f.drop(columns="epoch"), "error", "has no column epoch"),
        (lambda f: f, "eror", "has no column eror (nearest valid key: error) (see --metric)"),
        (lambda f: f, "optimizer", "column optimizer holds what is no number"),
        (lambda f: f.assign(error=math.nan), "error", "holds no number"),
        (lambda f: f[f.epoch != 2], "error", None),  # nowhere: then it is no gap
        (lambda f: f[(f.epoch != 2) | (f.trial != 3)], "error", "an epoch is missing in trial = 3"),
        (lambda f: pd.concat([f, f[f.trial == 1]]), "error", "an epoch is twice or is missing in trial = 1"),
        (lambda f: f[(f.epoch < 4) | (f.trial < 0)].assign(epoch=lambda f: f.epoch + f.trial), "error", "missing"),
    ],
)
def test_what_is_no_table_of_curves_is_refused_in_one_line(change, metric, told, tmp_path):
    if told is None:
        assert read(change(trainings(4)), tmp_path, metric=metric).epochs == EPOCHS - 1
        return
    with pytest.raises(ConfigError, match=re.escape(told)) as refused:
        read(change(trainings(4)), tmp_path, metric=metric)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["none.csv", "none.parquet", "broken.parquet", "broken.csv"])
def test_a_file_that_cannot_be_read_is_refused_by_its_name(name, tmp_path):
    if name.startswith("broken"):
        (tmp_path / name).write_bytes(b"\x80\x81\x00PAR1" * 10)
    with pytest.raises(ConfigError, match=re.escape(name)):
        read_table(tmp_path / name, "error", maximize=False, keys=None)


# Spaces


def test_the_space_holds_what_was_recorded(tmp_path):
    curves = read(trainings().assign(fixed=3), tmp_path)
    frame = trainings()
    assert space_of(curves) == {
        "lr": {"log_uniform": [pytest.approx(frame.lr.min()), pytest.approx(frame.lr.max())]},
        "optimizer": {"choice": ["sgd", "adam"]},
        "depth": {"int": [1, 8]},
    }


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ([1, 50, 100], {"log_int": [1, 100]}),
        ([0, 50, 100], {"int": [0, 100]}),
        ([0.5, 0.25], {"uniform": [0.25, 0.5]}),
        ([-1.0, 1000.0], {"uniform": [-1.0, 1000.0]}),
        ([True, False], {"choice": [True, False]}),
        ([1, "auto"], {"choice": [1, "auto"]}),
    ],
)
def test_each_kind_of_values_has_its_kind_of_range(values, spec):
    curves = tuple(Curve({"x": value}, 0, (1.0,), (1.0,)) for value in values)
    assert space_of(RecordedCurves(1, curves)) == {"x": spec}


# The nearest training


def near(choice: str, lr: float, *ends: float) -> list[Curve]:
    return [Curve({"c": choice, "lr": lr}, seed, (0.9, end), (1.0, 1.0)) for seed, end in enumerate(ends)]


SPACE = (Dimension("lr", "log_uniform", 1e-4, 1.0), Dimension("c", "choice", choices=("a", "b")))


def test_the_nearest_training_is_trained_with_one_of_its_seeds():
    curves = RecordedCurves(2, (*near("a", 1e-4, 0.5, 0.7), *near("a", 1.0, 0.3), *near("b", 1e-4, 0.2)))
    task = NearestTask(curves, SPACE)
    ends = {float(task.curve({"lr": 3e-4, "c": "a"}, seed)[-1]) for seed in range(30)}
    assert ends == {0.5, 0.7}
    assert task.curve({"lr": 3e-4, "c": "a"}, 7).tolist() == task.curve({"lr": 3e-4, "c": "a"}, 7).tolist()
    assert task.true_nme({"lr": 3e-4, "c": "a"}) == pytest.approx(0.6)
    assert task.true_nme({"lr": 0.5, "c": "a"}) == 0.3
    assert task.true_nme({"lr": 3e-4, "c": "b"}) == task.best == 0.2


def test_where_it_diverged_it_diverges():
    dead = Curve({"c": "a", "lr": 1.0}, 0, (), ())
    half = Curve({"c": "b", "lr": 1.0}, 0, (0.4,), (1.0,))
    task = NearestTask(RecordedCurves(2, (*near("a", 1e-4, 0.5), dead, half)), SPACE, epochs=4)
    assert len(task.curve({"lr": 0.9, "c": "a"}, 0)) == 0
    assert task.curve({"lr": 0.9, "c": "b"}, 0).tolist() == [0.4, 0.4]
    assert task.true_nme({"lr": 0.9, "c": "b"}) == math.inf
    assert task.best == 0.5


def test_configurations_outside_of_the_choices_are_not_there():
    curves = RecordedCurves(2, (*near("a", 1e-4, 0.5), *near("z", 1e-4, 0.1)))
    assert NearestTask(curves, SPACE).best == 0.5
    with pytest.raises(ConfigError, match="holds no recorded configuration"):
        NearestTask(RecordedCurves(2, tuple(near("z", 1e-4, 0.1))), SPACE)


def test_a_sweep_of_foreign_parameters_knows_no_trainer(tmp_path):
    curves = read(trainings(), tmp_path)
    config = load_foreign(None, {"epochs": "60", "known": "[{lr: 0.01}]"}, curves)
    assert config.train.optim.epochs == EPOCHS
    assert config.known == [{"lr": 0.01}]
    with pytest.raises(ConfigError, match=r"known\[0\]: lrr is not in the space \(nearest valid key: lr\)"):
        load_foreign(None, {"epochs": "60", "known": "[{lrr: 0.01}]"}, curves)
    with pytest.raises(ConfigError, match=r"space\.lr\.uniform"):
        load_foreign(None, {"epochs": "60", "space": "{lr: {uniform: [1, 1]}}"}, curves)


# Several sweeps


def told(*ends: float) -> list[History]:
    """Sweeps of eight epochs that have found 1.0 until the last."""
    return [History(list(range(1, 9)), list(range(8)), true, true) for end in ends if (true := [1.0] * 7 + [end])]


def test_standings_by_hand():
    found = repeated.standings({"a": told(0.2, 0.2, 0.2, 0.2), "b": told(0.1, 0.1, 0.2, 0.9)}, 0.0, 8)
    assert found["a"].rank == pytest.approx((2 + 2 + 1.5 + 1) / 4)
    assert found["b"].rank == pytest.approx((1 + 1 + 1.5 + 2) / 4)
    assert (found["b"].ahead, found["b"].behind, found["b"].chance) == (2, 1, 1.0)
    assert (found["a"].ahead, found["a"].behind, found["a"].chance) == (0, 0, 1.0)
    logs = np.log10([0.1, 0.1, 0.2, 0.9])
    assert found["b"].log_regret == pytest.approx(logs.mean())
    assert found["b"].error == pytest.approx((logs - math.log10(0.2)).std(ddof=1) / 2)


def test_an_uneven_count_is_less_probable():
    few = repeated.standings({"a": told(*[0.2] * 8), "b": told(*[0.1] * 8)}, 0.0, 8)["b"]
    assert few.chance == pytest.approx(2 / 2**8)


def test_a_metric_is_shown_in_its_own_units():
    assert NME.shown(0.05123) == "5.12%"
    assert Metric("accuracy", -1.0, 1.0).shown(0.1) == "0.9"
    assert Metric("loss", 1.0, 0.0).difference(0.01234) == "0.0123"


def test_sweeps_are_the_same_in_one_process_and_in_several(tmp_path):
    curves = read(trainings(), tmp_path)
    config = load_foreign(None, {"trials": "null", "epochs": "60"}, curves)
    task, sweeps = NearestTask(curves, config.dimensions), {"a": config, "b": config.model_copy(update={"seed": 3})}
    alone = repeated.simulate_all(sweeps, task, 2, 5, 1)
    assert repeated.simulate_all(sweeps, task, 2, 5, 2) == alone
    assert [len(histories) for histories in alone.values()] == [5, 5]
    assert alone["b"][0] == alone["a"][3]  # by its seed


# The command


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    trainings().to_csv(tmp_path / "table.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(capsys, *words: str) -> tuple[int, str, str]:
    given = ["--curves", "table.csv", "--metric", "error", "--epochs", "60", "--trials", "null", "--repeats", "3"]
    return call(simulate.main, capsys, *given, *words)


def test_a_table_is_simulated_without_a_sweep_file(here, capsys):
    code, out, err = ask(capsys)
    assert (code, err) == (0, "")
    first, space, head, *_, end, _ = out.splitlines()
    assert first.startswith(
        "3 simulated sweeps of rank_gp and successive_halving, 1 slot, on 120 recorded trainings of 6"
    )
    assert space.startswith("space: lr log_uniform [0.000")
    assert space.endswith("optimizer choice [sgd, adam], depth int [1, 8]")
    assert head == "epochs  time       true error of the choice (quartiles)   regret"
    best = float(re.search(r"best there is: ([\d.]+)", end)[1])
    ends = trainings().query("epoch == 6").groupby("lr").error.mean()
    assert best == pytest.approx(ends.min(), rel=1e-3)
    assert float(re.search(r"at the end ([\d.]+)", end)[1]) < best + 0.1


def test_samplers_and_budgets_are_compared_and_drawn(here, capsys):
    code, out, err = ask(capsys, "--compare", "sampler.name=random", "epochs=30 pruner.name=none", "--out", "both.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    side = lines[lines.index("true error of the choice, median (quartiles), after epochs") :]
    assert side[1].split() == ["7", "15", "30", "60"]
    assert [line.split("  ")[0] for line in side[2:5]] == [
        "simulated",
        "sampler.name=random",
        "epochs=30 pruner.name=none",
    ]
    assert "log10 regret" in side[6]
    assert re.fullmatch(
        r"sampler.name=random +-?\d\.\d{3} +[+-]\d\.\d{3} ± \d\.\d{3} +\d\.\d\d +\d : \d \(\S+\)", side[8]
    )
    assert (here / "both.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("--compare", "sampler.name"), "--compare 'sampler.name': sampler.name is no KEY=VALUE"),
        (("--compare", "sampler.nam=tpe"), "sampler.nam: unknown setting (nearest valid key: sampler.name)"),
        (("--compare", "train.optim.epochs=9"), "--compare: the sweeps must share their space and the epochs of a"),
        (("--metric", "eror"), "table.csv: has no column eror (nearest valid key: error)"),
        (("--curves", "table.csv", "table.csv"), "--curves table.csv: a table stands alone"),
        (("--save-curves", "x.json.gz"), "--save-curves: a table is a file of curves already"),
        (("--warm_start", "[old]"), "warm_start, objectives and limits: cannot be simulated on a table of curves"),
        (("--limits.memory_gb", "4"), "warm_start, objectives and limits: cannot be simulated on a table of curves"),
        (("--processes", "0"), "--processes 0: must be at least 1"),
        (("--space", "{lrr: {uniform: [0, 1]}}"), "table.csv: has no column lrr, which is a parameter of the space"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(words, refusal, here, capsys):
    code, out, err = ask(capsys, *words)
    assert (code, out) == (2, "")
    assert refusal in err
    assert err.count("\n") == 1


def test_a_table_needs_a_metric_and_only_a_table_has_one(here, capsys):
    code, _, err = call(simulate.main, capsys, "--curves", "table.csv")
    assert code == 2
    assert "needs --metric COLUMN" in err
    code, _, err = call(simulate.main, capsys, "--curves", "some.json.gz", "--metric", "error")
    assert code == 2
    assert "--metric and --maximize are for a table of curves" in err


@pytest.mark.parametrize("count", [1, 2, 3], ids=["while it starts them", "at the first", "at the last"])
def test_ctrl_c_ends_all_processes_with_one_line(here, count):
    words = ["--curves", "table.csv", "--metric", "error", "--trials", "null", "--epochs", "3000", "--repeats", "400"]
    command = [sys.executable, "-m", "sweep.simulate", *words, "--processes", "2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background have it ignored
    )
    children: list[str] = []
    while running.poll() is None and len(children) < count:
        time.sleep(0.001)
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out, err) == (130, "", "interrupted\n")

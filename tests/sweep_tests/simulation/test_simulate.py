"""python -m sweep.simulate: its table, its picture, the curves that it reads and writes, and what it refuses."""

import gzip
import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from harness import TINY, call
from made_up_curves import CORNER, EPOCHS, SPACE, make_curves
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from written_sweeps import PLANE, some, write_sweep

from sweep import simulate
from sweep.simulation import repeated
from sweep.simulation.recorded_curves import Curve, RecordedCurves
from sweep.simulation.regret_plot import draw
from sweep.simulation.simulator import History
from sweep.storage.event_log import Event, EventKind

ROW = re.compile(r" *(\d+)  (.{9})  +([\d.]+)% \(([\d.]+) to ([\d.]+)\) +(-?[\d.]+)")
SETTINGS = {
    "space": SPACE,
    "trials": None,
    "epochs": 60,
    "slots": 2,
    "sampler": {"name": "random"},
    "pruner": {"name": "successive_halving", "min_epochs": 1, "reduction": 3},
    "train": {"optim": {"epochs": EPOCHS}},
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The current folder: a sweep's settings and recorded curves."""
    (tmp_path / "faces.yaml").write_text(yaml.safe_dump(SETTINGS))
    make_curves().save(tmp_path / "curves.json.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ask(here, capsys):
    """Runs the command: its exit code, what it printed, and its messages."""

    def run(
        *words: str, sweep: str = "faces.yaml", curves: str = "curves.json.gz", repeats: int = 3
    ) -> tuple[int, str, str]:
        line = [sweep, "--curves", *curves.split(), "--repeats", str(repeats), *words]
        return call(simulate.main, capsys, *line)

    return run


def rows(text: str) -> list[tuple[int, str, list[float]]]:
    """The rows of the table: epochs, time, and median, quartiles and regret in per cent."""
    found = [match.groups() for line in text.splitlines() if (match := ROW.fullmatch(line))]
    return [(int(epochs), spent.strip(), list(map(float, values))) for epochs, spent, *values in found]


def timeless(text: str) -> str:
    return re.sub(r"\([\d.]+ s\)", "", text)


def seconds(text: str) -> float:
    """What `format_seconds` says, back in seconds."""
    units = {"s": 1, "min": 60, "h": 3600}
    return sum(float(value) * units[unit] for value, unit in re.findall(r"(\d+) (s|min|h)", text))


# The table


def test_it_says_what_was_simulated_and_what_was_found(ask):
    code, out, err = ask()
    assert (code, err) == (0, "")
    first, head, *lines, end, picture = out.splitlines()
    assert first.startswith(
        "3 simulated sweeps of random and successive_halving, 2 slots, on 108 recorded trainings of 9 epochs ("
    )
    assert head == "epochs  time       true NME of the choice (quartiles)   regret, points"
    assert picture == "picture: simulation.png"
    found = rows(out)
    assert len(found) == len(lines) >= 6
    best = float(re.search(r"the best there is: ([\d.]+)%", end)[1])
    assert [epochs for epochs, _, _ in found] == sorted({epochs for epochs, _, _ in found})
    assert found[0][0] == 1
    assert 0.8 * 60 - EPOCHS < found[-1][0] <= 60
    for _, _, (middle, low, high, regret) in found:
        assert low <= middle <= high
        assert regret == pytest.approx(middle - best, abs=0.0101)
        assert regret > -0.1
    spent = [seconds(text) for _, text, _ in found]
    assert spent == sorted(spent)
    assert spent[-1] == pytest.approx(found[-1][0] * 2.0 / 2, rel=0.2)  # two slots, two seconds an epoch
    ends = [float(text) for text in re.findall(r"\d+\.\d{3}", end)]
    assert ends == [*(pytest.approx(value, abs=0.0051) for value in found[-1][2][:3]), best]


def test_the_table_of_three_short_sweeps_by_hand():
    hours = [1 / 3600, 2 / 3600, 3 / 3600, 4 / 3600]
    told = [[0.5, 0.4, 0.3, 0.2], [0.6, 0.6, 0.35, 0.1], [0.9, 0.3, 0.3, 0.3]]
    histories = [History([1, 2, 3, 4], hours, true, true) for true in told]
    assert repeated.table(histories, 0.1).splitlines() == [
        "epochs  time       true NME of the choice (quartiles)   regret, points",
        "     1  1 s         60.00% (50.00 to 90.00)                      50.00",
        "     2  2 s         40.00% (30.00 to 60.00)                      30.00",
        "     3  3 s         30.00% (30.00 to 35.00)                      20.00",
        "     4  4 s         20.00% (10.00 to 30.00)                      10.00",
        "at the end 20.000% (10.000 to 30.000); the best there is: 10.000%",
    ]


def test_quartiles_are_values_that_were_seen():
    values = np.array([[5.0, 1.0], [1.0, 1.0], [4.0, math.inf], [2.0, 3.0], [3.0, math.inf]])
    assert repeated.quartiles(values).tolist() == [[2.0, 1.0], [3.0, 3.0], [4.0, math.inf]]


def test_the_same_command_prints_and_draws_the_same(ask, here):
    first, picture = ask(), (here / "simulation.png").read_bytes()
    again = ask()
    assert timeless(first[1]) == timeless(again[1])
    assert (here / "simulation.png").read_bytes() == picture
    assert timeless(ask(repeats=4)[1]) != timeless(first[1])


def test_another_setting_of_the_search_gives_another_table(ask):
    default = rows(ask("--epochs", "100")[1])
    assert rows(ask("--epochs", "100", "--pruner.name", "none")[1]) != default
    assert rows(ask("--epochs", "100", "--sampler.name", "tpe", "--sampler.startup_trials", "3")[1]) != default


def test_more_slots_take_less_time_for_the_same_epochs(ask):
    for slots in (1, 4, 12):
        code, out, _ = ask("--slots", str(slots), "--epochs", "300", "--pruner.name", "none", repeats=2)
        assert code == 0
        assert f", {slots} slot" in out
        *_, (epochs, spent, _) = rows(out)
        assert 0.8 * 300 - EPOCHS < epochs <= 300
        assert 0.95 * 2 / slots < seconds(spent) / epochs < 1.5 * 2 / slots  # at the end not all are busy


def test_five_hundred_slots_are_simulated_too(ask):
    code, out, err = ask("--slots", "500", "--epochs", "200", "--repeats.share", "0", repeats=1)
    assert (code, err) == (0, "")
    *_, (epochs, spent, _) = rows(out)
    assert epochs > 180
    assert seconds(spent) <= 2 * EPOCHS


def test_every_repeat_has_a_seed_of_its_own(ask):
    assert any(low < high for _, _, (_, low, high, _) in rows(ask()[1]))


def test_one_repeat_is_its_own_quartiles(ask):
    for _, _, (middle, low, high, _) in rows(ask(repeats=1)[1]):
        assert low == middle == high


def test_a_budget_of_trials_or_of_hours_ends_the_sweeps(ask):
    code, out, _ = ask("--epochs", "null", "--trials", "5", "--pruner.name", "none", "--repeats.share", "0")
    assert code == 0
    assert rows(out)[-1][0] == 5 * EPOCHS
    code, out, _ = ask("--epochs", "null", "--hours", "0.02")
    assert code == 0
    assert 60 < seconds(rows(out)[-1][1]) <= 72


def test_without_a_sweep_the_demo_is_simulated(here, capsys):
    assert simulate.main(["--curves", "curves.json.gz", "--repeats", "1", "--trials", "6"]) == 0
    assert "1 simulated sweeps of rank_gp and successive_halving" in capsys.readouterr().out


def test_trials_have_the_sweeps_own_epochs_and_it_is_said_that_the_recorded_are_stretched(ask, here):
    (here / "faces.yaml").write_text(yaml.safe_dump(SETTINGS | {"train": {"optim": {"epochs": 100}}}))
    code, out, _ = ask("--epochs", "null", "--trials", "4", "--pruner.name", "none", "--repeats.share", "0")
    assert code == 0
    assert rows(out)[-1][0] == 4 * 100
    assert f"recorded trainings of {EPOCHS} epochs stretched to 100 (" in out
    assert "stretched" not in ask("--train.optim.epochs", str(EPOCHS), "--epochs", "30")[1]


# The picture


def test_the_picture_is_a_png_of_the_size_of_a_page(ask, here):
    code, out, _ = ask("--out", "regret.png")
    assert (code, out.splitlines()[-1]) == (0, "picture: regret.png")
    picture = cv2.imread(str(here / "regret.png"))
    assert (here / "regret.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    height, width, _ = picture.shape
    assert 300 <= height <= 1000
    assert 800 <= width <= 2500
    assert 0.5 < (picture == 255).all(2).mean() < 0.99
    assert not (here / "simulation.png").exists()


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws sweeps: the two axes of the figure, before it becomes a file."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def run(sweeps: dict[str, list[History]], best: float):
        draw(sweeps, best, tmp_path / "unused.png")
        return figures[-1].axes

    return run


def five(scale: float = 1.0) -> list[History]:
    """Five sweeps of four epochs and two hours, of which sweep i is i times as bad as the first."""
    fall = [0.16, 0.08, 0.04, 0.02]
    return [
        History([1, 2, 3, 4], [0.5, 1.0, 1.5, 2.0], true, true)
        for i in (3, 1, 5, 2, 4)
        if (true := [0.05 + i * scale * value for value in fall])
    ]


def band(collection) -> dict[float, tuple[float, float]]:
    """Lowest and highest point of a filled band, by its place along the axis."""
    found: dict[float, list[float]] = {}
    for x, y in collection.get_paths()[0].vertices:
        found.setdefault(float(x), []).append(float(y))
    return {x: (min(ys), max(ys)) for x, ys in found.items()}


def test_the_lines_are_medians_and_the_bands_are_quartiles(drawn):
    epochs, hours = drawn({"ours": five()}, 0.05)
    assert (epochs.get_xscale(), epochs.get_yscale(), hours.get_xscale()) == ("log", "log", "log")
    for axes, place in ((epochs, lambda x: math.floor(x)), (hours, lambda x: math.floor(x * 2))):
        (line,), (quartiles,) = axes.lines, axes.collections
        x, y, filled = line.get_xdata(), line.get_ydata(), band(quartiles)
        fall = np.array([0.16, 0.08, 0.04, 0.02])[[place(value) - 1 for value in x]] * 100
        assert y == pytest.approx(3 * fall)
        assert [filled[float(value)] for value in x] == [
            (pytest.approx(2 * value), pytest.approx(4 * value)) for value in fall
        ]
        assert sorted(set(fall)) == [2, 4, 8, 16]
    assert epochs.lines[0].get_xdata()[[0, -1]].tolist() == [1, 4]
    assert hours.lines[0].get_xdata()[[0, -1]].tolist() == [0.5, 2.0]


def test_each_kind_of_sweep_has_its_name_and_its_colour_in_both_halves(drawn):
    left, right = drawn({"ours": five(), "random": five(2)}, 0.05)
    assert [text.get_text() for text in left.figure.legends[0].get_texts()] == ["ours", "random"]
    for axes in (left, right):
        assert [line.get_label() for line in axes.lines] == ["ours", "random"]
        colours = [to_hex(line.get_color()) for line in axes.lines]
        assert len(set(colours)) == 2
        assert [to_hex(shape.get_facecolor()[0]) for shape in axes.collections] == colours
    ours, other = left.lines
    assert 2 * ours.get_ydata() == pytest.approx(other.get_ydata())
    assert [to_hex(line.get_color()) for line in left.lines] == [to_hex(line.get_color()) for line in right.lines]
    assert "regret" in left.get_ylabel()
    assert (left.get_xlabel(), right.get_xlabel()) == ("epochs, all trials together", "hours")


def test_a_sweep_that_has_found_the_best_is_drawn_on_the_logarithmic_axis(drawn):
    histories = [History([1, 2], [1.0, 2.0], true, true) for true in ([0.1, 0.05], [0.2, 0.04], [0.3, 0.05])]
    left, _ = drawn({"ours": histories}, 0.05)
    assert left.lines[0].get_ydata()[-1] == 1e-3


@pytest.mark.filterwarnings("error")
def test_sweeps_that_began_with_a_divergence_or_were_short_are_drawn(tmp_path):
    late = [History([1, 2, 3], [0.1, 0.2, 0.3], [0.5, 0.4, 0.3], [math.inf, 0.4, 0.3])] * 3
    short = [History([1], [0.1], [0.5], [0.4])]
    draw({"late": late, "short": short}, 0.2, tmp_path / "picture.png")
    assert cv2.imread(str(tmp_path / "picture.png")) is not None


# Curves of finished sweeps


def trials(count: int) -> list:
    """Trials whose NMEs have no more digits than a file of curves holds."""
    return [(params, [round(nme, 6) for nme in curve], state) for params, curve, state in some(count)]


def finished(output: Path, name: str, seed: int = 0, **settings):
    train = TINY | {"optim": {"epochs": 4, "batch_size": 8}, "run": TINY["run"] | {"seed": seed}}
    return write_sweep(output, PLANE, trials(12), name=name, train=train, **settings)


def recorded(seed: int = 0) -> tuple[Curve, ...]:
    complete = [(params, curve) for params, curve, state in trials(12) if state == "COMPLETE"]
    return tuple(Curve(dict(params), seed, tuple(curve), (10.0,) * 4) for params, curve in complete)


@pytest.mark.parametrize("named", ["folder", "name"])
def test_a_finished_sweep_is_read_by_its_folder_or_by_its_name(named, ask, here):
    sweep = finished(here / "outputs", "told")
    given = str(sweep.folder) if named == "folder" else "told"
    code, out, err = ask("--save-curves", "saved.json.gz", sweep="outputs/told.yaml", curves=given)
    assert (code, err) == (0, "")
    assert "on 8 recorded trainings of 4 epochs" in out  # the four that were stopped are left out
    assert RecordedCurves.load(here / "saved.json.gz").curves == recorded()


def test_sweeps_with_other_seeds_are_one_set_of_curves(ask, here):
    for seed in (0, 1, 2):
        finished(here / "outputs", f"seed{seed}", seed)
    code, out, _ = ask("--save-curves", "saved.json.gz", sweep="outputs/seed0.yaml", curves="seed0 seed1 seed2")
    assert code == 0
    assert "on 24 recorded trainings of 4 epochs" in out
    saved = RecordedCurves.load(here / "saved.json.gz")
    assert saved.curves == recorded(0) + recorded(1) + recorded(2)


def test_saved_curves_simulate_the_same_as_the_sweeps_that_they_were_read_from(ask, here):
    sweep = finished(here / "outputs", "told")
    from_sweep = ask("--save-curves", "saved.json.gz", sweep="outputs/told.yaml", curves=str(sweep.folder))
    from_file = ask(sweep="outputs/told.yaml", curves="saved.json.gz")
    assert rows(from_file[1]) == rows(from_sweep[1])
    again = ask("--save-curves", "again.json.gz", sweep="outputs/told.yaml", curves="saved.json.gz")
    assert again[0] == 0
    assert (here / "again.json.gz").read_bytes() == (here / "saved.json.gz").read_bytes()


def test_saved_curves_tell_how_they_were_made_and_not_where(ask, here):
    data = {"kind": "coco", "root": str(here / "faces"), "cache_dir": str(here / "cache"), "layout": "w300_68"}
    train = TINY | {"data": data | {"image_size": 32}, "optim": {"epochs": 4, "batch_size": 8}}
    sweep = write_sweep(here / "outputs", PLANE, trials(6), train=train)
    assert ask("--save-curves", "saved.json.gz", sweep="outputs/told.yaml", curves=str(sweep.folder))[0] == 0
    made = RecordedCurves.load(here / "saved.json.gz").made
    assert made["config"]["model"]["backbone"] == "resnet18"
    assert made["tags"] == {"machine": "<here> & there"}
    assert str(here) not in gzip.decompress((here / "saved.json.gz").read_bytes()).decode()


def test_repeats_and_divergences_of_a_sweep_are_curves_too(here):
    def ended(state: str) -> dict:
        return {"state": state, "reason": None, "best_nme": None}

    def reports(number: int, curve: list[float], at: float) -> list[Event]:
        metrics = {"train/loss": 1.0, "epoch_seconds": 3.0}
        told = [(step, metrics | {"val/nme": nme, "best_nme": nme}) for step, nme in enumerate(curve, 1)]
        return [Event(EventKind.REPORT, number, {"step": s, "metrics": m}, at + s) for s, m in told]

    params = {"optim.lr": 1e-3, "loss.star_weight": 1.0}
    more = [
        Event(EventKind.TRIAL_STARTED, 12, {"params": params, "config": {}, "seed": 7, "repeats": 0}, 2000),
        *reports(12, [0.4, 0.3, 0.2, 0.1], 2000),
        Event(EventKind.TRIAL_ENDED, 12, ended("COMPLETE"), 2010),
        Event(EventKind.TRIAL_STARTED, 13, {"params": params, "config": {}}, 2020),
        *reports(13, [0.9, 0.8], 2020),
        Event(EventKind.TRIAL_ENDED, 13, ended("DIVERGED"), 2030),
        Event(EventKind.TRIAL_STARTED, 14, {"params": params, "config": {}}, 2040),
        *reports(14, [0.4, 0.3, 0.2], 2040),
        Event(EventKind.TRIAL_ENDED, 14, ended("FAILED"), 2050),
    ]
    sweep = finished(here / "outputs", "told", 5, more=more)
    *others, repeat, dead = RecordedCurves.of_sweeps([sweep]).curves
    assert tuple(others) == recorded(5)
    assert repeat == Curve(params, 7, (0.4, 0.3, 0.2, 0.1), (3.0,) * 4)
    assert dead == Curve(params, 5, (0.9, 0.8), (3.0,) * 2)


# What it refuses


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--curves", "nowhere.gz"), "nowhere.gz: no sweep of this name in "),
        (("--curves", "faces.yaml"), "faces.yaml: cannot be read as recorded curves"),
        (("--curves", "curves.json.gz", "told"), "no sweep of this name in "),
        (("--repeats", "0"), "--repeats 0: must be at least 1"),
        (("--repeats", "-3"), "--repeats -3: must be at least 1"),
        (("--repeats", "many"), "argument --repeats: invalid int value: 'many'"),
        (("--out", "none/picture.png"), "--out none/picture.png: there is no folder none"),
        (("--slots", "0"), "slots = 0: "),
        (("--sampler.name", "best"), "sampler.name = 'best': "),
        (("--slotz", "3"), "--slotz: unknown option (nearest valid key: slots)"),
        (("--epochs", "null"), "trials, epochs, hours, device_hours = null"),
        (("--space", "{optim.weight_decay: {log_uniform: [0.001, 0.1]}}"), "space.optim.weight_decay: the recorded"),
        (("--space", "{optim.larning: {uniform: [0, 1]}}"), "space.optim.larning: the trainer has no such setting"),
    ],
)
def test_bad_input_is_refused_in_one_message_before_anything_is_simulated(words, told, ask, here):
    code, out, err = ask(*words)
    assert (code, out) == (2, "")
    assert told in err
    assert err.startswith("python -m sweep.simulate: ")
    assert err.count("\n") == 1
    assert not (here / "simulation.png").exists()


def test_a_misspelt_setting_of_the_sweep_is_refused(ask, here):
    (here / "faces.yaml").write_text(yaml.safe_dump(SETTINGS | {"slotz": 3}))
    code, out, err = ask()
    assert (code, out) == (2, "")
    assert "slotz: unknown setting" in err
    assert err.count("\n") == 1


def test_curves_are_needed(capsys):
    with pytest.raises(SystemExit) as ended:
        simulate.main([])
    assert ended.value.code == 2
    assert "--curves" in capsys.readouterr().err


def test_a_missing_sweep_file_is_refused_by_its_name(ask):
    code, _, err = ask(sweep="nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml" in err


def test_sweeps_that_searched_something_else_are_refused(ask, here):
    finished(here / "outputs", "one")
    write_sweep(here / "outputs", {"optim.lr": PLANE["optim.lr"]}, [], name="other")
    code, _, err = ask(sweep="outputs/one.yaml", curves="one other")
    assert code == 2
    assert "the sweeps differ in their epochs or in what they search" in err


def test_a_sweep_without_a_complete_trial_is_refused(ask, here):
    write_sweep(here / "outputs", PLANE, [(params, curve[:2], "PRUNED") for params, curve, _ in trials(4)])
    code, _, err = ask(sweep="outputs/told.yaml", curves="told")
    assert code == 2
    assert "the sweeps have no complete trial" in err


def refused(found: tuple[int, str, str], told: str) -> None:
    code, out, err = found
    assert (code, out) == (2, ""), err
    assert told in err
    assert err.count("\n") == 1


def test_a_folder_as_picture_is_refused(ask, here):
    refused(ask("--out", "."), "--out .: must be a file that ends in .png")
    assert not (here / ".png").exists()


def test_a_picture_of_an_unknown_kind_is_refused(ask):
    refused(ask("--out", "regret.foo"), "--out regret.foo")


def test_curves_cannot_be_saved_into_no_folder(ask):
    refused(ask("--save-curves", "none/saved.json.gz"), "--save-curves none/saved.json.gz")


def test_curves_cannot_be_saved_over_a_folder(ask):
    refused(ask("--save-curves", "."), "--save-curves .")


@pytest.mark.parametrize(
    "budget", [("--epochs", "3"), ("--epochs", "null", "--hours", "0.0001")], ids=["epochs", "hours"]
)
def test_a_budget_too_small_for_any_report_is_told(budget, ask):
    code, _, err = ask(*budget, "--pruner.name", "none")
    assert "Traceback" not in err
    assert code == 2


def damaged(here: Path, **changes) -> None:
    tree = json.loads(gzip.decompress((here / "curves.json.gz").read_bytes()))
    values, seed, nme, seconds = tree["curves"][0]
    row = {"values": values, "seed": seed, "nme": nme, "seconds": seconds} | changes
    tree["curves"][0] = list(row.values())
    (here / "curves.json.gz").write_bytes(gzip.compress(json.dumps(tree).encode()))


@pytest.mark.parametrize(
    "changes",
    [
        {"nme": ["bad"] * 9},
        {"nme": [None] * 9},
        {"nme": [0.0] * 9},
        {"nme": [-1.0] * 9},
        {"seconds": [1.0] * 3},
        {"nme": [0.1] * 12, "seconds": [1.0] * 12},
    ],
    ids=["text", "null", "zero", "negative", "few_seconds", "too_long"],
)
def test_curves_that_hold_no_curves_are_refused(changes, ask, here):
    damaged(here, **changes)
    refused(ask(), "curves.json.gz: ")


@pytest.mark.parametrize("values", [["a", 1.0], [1.0, "b"], [0.0, 1.0], [True, 1.0]])
def test_values_that_no_range_can_have_are_refused(values, ask, here):
    damaged(here, values=values)
    refused(ask(), "which is no value of a log_uniform range")


def test_the_seed_of_the_sweep_is_that_of_the_first_simulation(ask):
    assert timeless(ask("--seed", "0")[1]) != timeless(ask("--seed", "5")[1])


def test_sweeps_are_looked_up_by_name_in_the_output_folder_that_is_given(ask, here):
    finished(here / "elsewhere", "told")
    code, _, err = ask("--output", "elsewhere", sweep="elsewhere/told.yaml", curves="told")
    assert code == 0, err


@pytest.mark.filterwarnings("error")
def test_a_task_on_which_everything_diverges_is_told(ask, here):
    config = SETTINGS | {"known": [CORNER], "trials": 1, "epochs": None}
    (here / "faces.yaml").write_text(yaml.safe_dump(config))
    make_curves(dying=4).save(here / "curves.json.gz")
    code, _, err = ask()
    assert code in (0, 2), err
    assert "Traceback" not in err

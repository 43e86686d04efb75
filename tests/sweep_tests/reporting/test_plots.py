"""The figures of the report hold the sweep's own numbers, for every shape of sweep; and the surface behind two of them.

Most sweeps here were never run: their events are written as a run would have written them.
"""

import itertools
import math
from collections import Counter

import numpy as np
import plotly.graph_objects as go
import pytest
from written_sweeps import (
    EPOCH,
    FAILURES,
    MIXED,
    ONE,
    PLANE,
    SHAPES,
    SPEED,
    TWO,
    some,
    with_head,
    worth,
    write_sweep,
    write_two_objectives,
)

from sweep.analysis.surface import Surface, random_search, sample_randomly
from sweep.analysis.sweep_result import SweepResult
from sweep.core.search_space import Dimension
from sweep.core.trial import State, TrialRecord
from sweep.reporting import search_figures, trial_figures
from sweep.storage.event_log import Event, EventKind
from trainer.metrics import ced
from trainer.run_folder import FACES_FILE

FIGURES = {
    "surface": search_figures.response_surface,
    "parallel": search_figures.parallel_coordinates,
    "importance": search_figures.importance,
    "curves": trial_figures.learning_curves,
    "ced": lambda sweep: trial_figures.error_curves(trial_figures.curves_of(sweep), 0.1),
    "history": trial_figures.optimisation_history,
    "timeline": trial_figures.timeline,
    "bars": lambda sweep: trial_figures.bars({"winner": {}, "final": {}}),
}
DRAWN = {  # everything else is None
    "no trial yet": "",
    "one trial": "curves history timeline",
    "two trials": "parallel curves history timeline",
    "none complete": "parallel importance curves history timeline",
    "all diverged": "timeline",
    "all diverged late": "parallel importance curves history timeline",
    "some running": "surface parallel importance curves history timeline",
    "interrupted": "parallel curves history timeline",
    "two hundred": "surface parallel importance curves history timeline",
    "with a choice": "surface parallel importance curves history timeline",
    "one range": "parallel curves history timeline",
    "one choice": "parallel curves history timeline",
    "whole numbers": "surface parallel importance curves history timeline",
    "all the same": "surface parallel curves history timeline",  # importance: see below
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", SHAPES)
def test_a_figure_is_drawn_or_is_none_for_every_shape_of_sweep(shape, tmp_path):
    space, trials, settings = SHAPES[shape]
    sweep = write_sweep(tmp_path, space, trials, **settings)
    made = {name: draw(sweep) for name, draw in FIGURES.items()}
    if shape == "all the same":
        made.pop("importance")  # drawn or not: all that matters is that it does not fail
    assert {name for name, found in made.items() if found is not None} == set(DRAWN[shape].split())
    for found in made.values():
        if found is not None:
            assert "NaN" not in found.to_json()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> SweepResult:
    """24 trials, of which the first is a known configuration."""
    trials = some(24)
    known = [dict(trials[0][0])]
    return write_sweep(tmp_path_factory.mktemp("plots"), PLANE, trials, known=known)


def scatters(made: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in made.data if isinstance(trace, go.Scatter)}


# What was searched


def test_the_response_surface_passes_near_the_trials(tmp_path):
    xs, ys = np.geomspace(1e-4, 1e-1, 60), np.linspace(0, 10, 60)  # trials on points of the grid
    places = [(i, j) for i in range(2, 60, 11) for j in range(2, 60, 11)]
    trials = [
        ({"optim.lr": float(xs[i]), "loss.star_weight": float(ys[j])}, [worth(xs[i], ys[j])], "COMPLETE")
        for i, j in places
    ]
    told = write_sweep(tmp_path, PLANE, trials)
    made = search_figures.response_surface(told)
    contour = made.data[0]
    for (i, j), (_, curve, _) in zip(places, trials, strict=True):
        assert (contour.x[i], contour.y[j]) == pytest.approx((xs[i], ys[j]))
        assert 10 ** contour.z[j][i] == pytest.approx(curve[0] * 100, rel=0.03)
        assert contour.customdata[j][i] == pytest.approx(curve[0] * 100, rel=0.03)
    values = [curve[0] * 100 for _, curve, _ in trials]
    assert min(values) - 1e-9 <= 10 ** np.min(contour.z)
    assert 10 ** np.max(contour.z) <= max(values) + 1e-9


def test_every_trial_is_a_point_on_the_surface_and_the_winner_has_a_ring(sweep):
    points = scatters(search_figures.response_surface(sweep))
    assert set(points) == {"complete", "pruned", "winner"}
    for state in ("complete", "pruned"):
        trials = [r for r in sweep.records.values() if r.state.value.lower() == state]
        assert list(points[state].x) == [r.params["optim.lr"] for r in trials]
        assert list(points[state].y) == [r.params["loss.star_weight"] for r in trials]
        for r, text in zip(trials, points[state].text, strict=True):
            assert text.startswith(f"trial {r.number}: ")
            assert f"best val NME {r.best_nme:.2%} after {r.epochs} epochs" in text
    assert points["winner"].x == (sweep.best.params["optim.lr"],)


def test_what_is_not_on_the_axes_of_the_surface_stands_at_the_winners_values(tmp_path):
    trials = [
        (params, [curve[0] * (3 if params["model.head"] == "deconv" else 1)], "COMPLETE")
        for params, curve, _ in with_head(some(30))
    ]
    told = write_sweep(tmp_path, MIXED, trials)
    assert told.best.params["model.head"] == "pyramid"
    grid = np.array(search_figures.response_surface(told).data[0].customdata)
    surface = Surface(told.config.dimensions, list(told.records.values()))
    corner = {"optim.lr": 1e-4, "loss.star_weight": 0.0}
    assert grid[0, 0] == pytest.approx(100 * surface([{**corner, "model.head": "pyramid"}])[0])
    assert grid[0, 0] < 90 * surface([{**corner, "model.head": "deconv"}])[0]


def test_parallel_coordinates_hold_every_trials_parameters_and_nme(tmp_path):
    told = write_sweep(tmp_path, MIXED, with_head(some(20)))
    lr, weight, head, nme = search_figures.parallel_coordinates(told).data[0].dimensions
    records = list(told.records.values())
    assert [axis.label for axis in (lr, weight, head, nme)] == ["lr", "star_weight", "head", "best val NME %"]
    assert lr.values == pytest.approx([math.log10(r.params["optim.lr"]) for r in records])
    assert weight.values == pytest.approx([r.params["loss.star_weight"] for r in records])
    assert [head.ticktext[list(head.tickvals).index(v)] for v in head.values] == [
        r.params["model.head"] for r in records
    ]
    assert nme.values == pytest.approx([math.log10(r.best_nme * 100) for r in records])
    assert [float(text) for text in lr.ticktext] == pytest.approx(10 ** np.array(lr.tickvals), rel=0.05)


def test_shares_of_importance_sum_to_one_and_the_parameter_that_decides_has_most(tmp_path):
    told = write_sweep(tmp_path, MIXED, with_head(some(120)))
    bar = search_figures.importance(told).data[0]
    shares = dict(zip(bar.y, bar.x, strict=True))
    assert set(shares) == {"lr", "star_weight", "head"}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["lr"] > 0.6
    assert bar.y[-1] == "lr"  # on top
    assert all(0 <= share <= 1 for share in shares.values())
    assert np.all(np.array(bar.x) - np.array(bar.error_x.arrayminus) >= -1e-9)
    again = search_figures.importance(told).data[0]
    assert np.array_equal(again.x, bar.x)


# How the trials ran


def test_a_learning_curve_is_the_trials_val_nme_in_per_cent(sweep):
    made = trial_figures.learning_curves(sweep)
    curves = {trace.hovertemplate.split(":")[0]: trace for trace in made.data}
    assert set(curves) == {f"trial {n}" for n in sweep.records}
    for n, rows in sweep.history_by_trial.items():
        trace = curves[f"trial {n}"]
        assert list(trace.x) == sorted(rows)
        assert list(trace.y) == [rows[epoch]["val/nme"] * 100 for epoch in sorted(rows)]
        pruned = sweep.records[n].state is State.PRUNED
        assert trace.marker.symbol[-1] == ("triangle-down" if pruned else "circle")
        assert set(trace.marker.symbol[:-1]) == {"circle"}
    best = curves[f"trial {sweep.best.number}"]
    assert best.name == f"winner, trial {sweep.best.number}"
    assert best is made.data[-1]  # on top of the others
    shown = Counter(trace.name for trace in made.data if trace.showlegend)
    assert shown == {best.name: 1, "complete": 1, "pruned": 1}


def test_the_optimisation_history_falls_to_the_best_nme_of_the_sweep(sweep):
    line = scatters(trial_figures.optimisation_history(sweep))["sweep told"]
    assert list(line.y) == sorted(line.y, reverse=True)
    assert line.y[-1] == min(r.best_nme for r in sweep.records.values()) * 100
    assert line.x[-1] == sweep.epochs_spent == sum(len(curve) for _, curve, _ in some(24))
    lowest = np.minimum.accumulate([nme * 100 for nme in sweep.best_nme_by_report])
    for epoch, value in zip(line.x, line.y, strict=True):
        assert value == lowest[epoch - 1]


def test_random_search_is_drawn_trial_by_trial_between_its_quartiles(sweep):
    made = trial_figures.optimisation_history(sweep)
    high, low = made.data[0], made.data[1]
    middle = scatters(made)["random search, simulated (median, quartiles)"]
    assert list(middle.x) == [4 * (i + 1) for i in range(sweep.epochs_spent // 4)]
    assert np.all(np.array(low.y) <= middle.y)
    assert np.all(np.array(middle.y) <= high.y)
    assert np.all(np.diff(middle.y) <= 0)
    assert min(low.y) >= min(r.best_nme for r in sweep.records.values()) * 100 - 1e-9


def test_error_curves_are_those_of_the_faces_and_known_configurations_are_dotted(sweep):
    rng, errors = np.random.default_rng(0), {}
    best = [r.number for r in sweep.ranked if r.state is State.COMPLETE][:7]
    assert 0 not in best[:5]
    for n in {0, *best}:
        folder = sweep.config.trial_folder(n)
        folder.mkdir(parents=True, exist_ok=True)
        errors[n] = rng.uniform(0.01, 0.15, 50)
        errors[n][3] = np.nan
        np.save(folder / FACES_FILE, errors[n])
    traces = trial_figures.error_curves(trial_figures.curves_of(sweep), 0.1).data
    assert [trace.name.split(":")[0] for trace in traces] == [f"trial {n}" for n in [*best[:5], 0]]
    for trace, n in zip(traces, [*best[:5], 0], strict=True):
        x, y = ced(errors[n])
        assert np.array_equal(trace.x, x * 100)
        assert np.array_equal(trace.y, y * 100)
        assert (trace.line.dash == "dot") is (n == 0)
        assert trace.y[-1] == pytest.approx(100 * np.mean(errors[n] <= 0.1))


def test_a_damaged_file_of_errors_costs_only_its_curve(tmp_path):
    told = write_sweep(tmp_path, PLANE, some(3))
    for n, content in ((0, b"not numpy"), (1, None)):
        told.config.trial_folder(n).mkdir(parents=True)
        np.save(told.config.trial_folder(n) / FACES_FILE, np.full(5, 0.05))
        if content:
            (told.config.trial_folder(n) / FACES_FILE).write_bytes(content)
    assert [name.split(":")[0] for name in trial_figures.curves_of(told)] == ["trial 1"]


def test_bars_of_the_timeline_are_the_spans_and_do_not_overlap_in_a_slot(sweep):
    bars = trial_figures.timeline(sweep).data
    assert sorted(bar.text for bar in bars) == sorted(map(str, sweep.records))
    assert sum(bar.x[0] for bar in bars) / 60 == pytest.approx(sweep.trial_hours)
    assert sweep.trial_hours == pytest.approx(sum(EPOCH * r.epochs + 1 for r in sweep.records.values()) / 3600)
    assert {bar.y[0] for bar in bars} == {"0", "1"}
    for slot in ("0", "1"):
        mine = sorted((bar.base[0], bar.base[0] + bar.x[0]) for bar in bars if bar.y[0] == slot)
        assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(mine))
    for bar in bars:
        span = next(span for span in sweep.run_intervals if str(span.trial) == bar.text)
        assert bar.base[0] * 60 == pytest.approx(span.start - 1001)
        assert bar.x[0] * 60 == pytest.approx(span.end - span.start)


def test_pauses_are_cut_out_of_the_timeline_and_interrupted_spans_are_shown(tmp_path):
    def started(when, number):
        return Event(EventKind.TRIAL_STARTED, number, {"params": ONE, "config": {}}, when)

    def ended(when, number):
        return Event(EventKind.TRIAL_ENDED, number, {"state": "FAILED", "reason": "lost", "best_nme": None}, when)

    day = 86400
    again = {"name": "told", "tags": {}, "config": {}}
    more = [
        started(2000, 0),
        Event(EventKind.TRIAL_INTERRUPTED, 0, {}, 2060),
        Event(EventKind.SWEEP_STARTED, None, again, 2060 + day),
        started(2060 + day, 0),
        started(2090 + day, 1),
        started(2120 + day, 0),  # its worker crashed
        ended(2180 + day, 0),
        ended(2190 + day, 1),
    ]
    told = write_sweep(tmp_path, PLANE, [], more=more)
    assert [span.outcome for span in told.run_intervals] == ["INTERRUPTED", "CRASHED", "FAILED", "FAILED"]
    bars = [(bar.text, bar.name, bar.y[0], bar.base[0], bar.x[0]) for bar in trial_figures.timeline(told).data]
    assert bars == [
        ("0", "interrupted", "0", 0.0, 1.0),
        ("0", "crashed", "0", pytest.approx(1.0), pytest.approx(1.0)),
        ("1", "failed", "1", pytest.approx(1.5), pytest.approx(100 / 60)),
        ("0", "failed", "0", pytest.approx(2.0), pytest.approx(1.0)),
    ]


def test_short_trials_beside_a_long_one_are_drawn_where_they_ran(tmp_path):
    more = []
    for number, (start, end) in enumerate([(2000, 2300), (2010, 2070), (2070, 2130), (2190, 2250)]):
        failed = {"state": "FAILED", "reason": "lost", "best_nme": None}
        more.append(Event(EventKind.TRIAL_STARTED, number, {"params": ONE, "config": {}}, start))
        more.append(Event(EventKind.TRIAL_ENDED, number, failed, end))
    told = write_sweep(tmp_path, PLANE, [], more=sorted(more, key=lambda e: e.time))
    bars = {bar.text: (bar.y[0], bar.base[0] * 60, bar.x[0] * 60) for bar in trial_figures.timeline(told).data}
    places = {"0": ("0", 0, 300), "1": ("1", 10, 60), "2": ("1", 70, 60), "3": ("1", 190, 60)}
    assert bars == {name: (slot, pytest.approx(at), pytest.approx(long)) for name, (slot, at, long) in places.items()}


def test_bars_are_per_cent():
    made = trial_figures.bars({"winner": {"nose": 0.05, "lip": 0.1234}, "final": {}})
    assert (made.data[0].x, list(made.data[0].y)) == (("nose", "lip"), [5.0, 12.34])
    assert made.data[0].text == ("5.00", "12.34")


# Two objectives


@pytest.mark.parametrize(
    ("objective", "scale", "front", "title"),
    [(SPEED, 1, [0, 1, 3], "images a second"), (FAILURES, 100, [0], "FR@0.10 %")],
)
def test_trials_stand_at_their_two_objectives_and_a_line_joins_the_front(objective, scale, front, title, tmp_path):
    made = trial_figures.pareto(write_two_objectives(tmp_path, objective, TWO))
    *points, line = made.data
    for trace in points:
        numbers = [n for n, (_, _, state) in enumerate(TWO) if state == trace.name.upper()]
        assert list(trace.x) == pytest.approx([TWO[n][1] * scale for n in numbers])
        assert list(trace.y) == pytest.approx([TWO[n][0] * 100 for n in numbers])
        assert [text.split(":")[0] for text in trace.text] == [f"trial {n}" for n in numbers]
        assert trace.mode == "markers"
    assert [trace.name.upper() for trace in points] == ["COMPLETE", "PRUNED", "INFEASIBLE"]
    assert line.name == "front"
    assert list(line.x) == pytest.approx([TWO[n][1] * scale for n in front])
    assert list(line.y) == pytest.approx([TWO[n][0] * 100 for n in front])
    assert (made.layout.xaxis.title.text, made.layout.yaxis.title.text) == (title, "best val NME %")


@pytest.mark.parametrize(
    ("objective", "others"), [(SPEED, [100.0, 300.0, 400.0]), (FAILURES, [0.4, 0.3, 0.1])], ids=[SPEED, FAILURES]
)
def test_the_line_of_the_front_passes_only_what_a_trial_reaches(objective, others, tmp_path):
    told = [(nme, other, "COMPLETE") for nme, other in zip((0.05, 0.06, 0.08), others, strict=True)]
    line = trial_figures.pareto(write_two_objectives(tmp_path, objective, told)).data[-1]
    assert len(line.x) == 3
    assert line.line.shape == "vh"  # the corners are on the side of the worse
    assert list(line.y) == sorted(line.y)
    assert list(line.x) == sorted(line.x, reverse=objective == FAILURES)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("found", "drawn"),
    [
        ([], False),
        ([(0.05, 100.0, "PRUNED"), (0.06, 200.0, "INFEASIBLE")], False),
        ([(0.05, 100.0, "COMPLETE")], True),
        ([(0.05, math.nan, "COMPLETE")], False),
        ([(0.05, math.nan, "COMPLETE"), (0.06, 200.0, "COMPLETE"), (math.inf, 1.0, "DIVERGED")], True),
        ([(0.05, 100.0, "COMPLETE")] * 5, True),
    ],
    ids=["nothing", "none complete", "one", "without a speed", "some without", "all the same"],
)
def test_a_front_is_drawn_where_a_complete_trial_has_both(found, drawn, tmp_path):
    made = trial_figures.pareto(write_two_objectives(tmp_path, SPEED, found))
    assert (made is not None) is drawn
    if drawn:
        assert "NaN" not in made.to_json()
        assert len(made.data[-1].x) == 1


# Several sweeps


@pytest.mark.parametrize("other", ["no trial yet", "all diverged", "one trial", "interrupted"])
def test_sweeps_are_compared_whatever_they_have(other, sweep, tmp_path):
    space, trials, settings = SHAPES[other]
    both = [sweep, write_sweep(tmp_path, space, trials, name="other", **settings)]
    first, second = trial_figures.histories(both).data
    assert (first.name, second.name) == ("told", "other")
    assert list(first.y) == trial_figures.spent(sweep)[1]
    boxes = trial_figures.trials_of(both).data
    assert sorted(boxes[0].y) == sorted(r.best_nme * 100 for r in sweep.records.values())
    assert len(boxes[1].y or ()) == sum(bool(curve) for _, curve, _ in trials)


def test_sweeps_that_have_nothing_have_no_figure(tmp_path):
    both = [write_sweep(tmp_path, PLANE, [], name=name) for name in ("a", "b")]
    assert trial_figures.histories(both) is None
    assert trial_figures.trials_of(both) is None


# The surface

RANGE = Dimension("lr", "log_uniform", 1e-4, 1e-1)
LAYER = Dimension("layers", "int", 1, 4)
WIDTH = Dimension("width", "log_int", 8, 128)
HEAD = Dimension("head", "choice", choices=("a", "b", None))


def record(number: int, nme: float | None, **params: object) -> TrialRecord:
    return TrialRecord(number, params, State.COMPLETE, {} if nme is None else {1: nme})


def all_kinds() -> list[TrialRecord]:
    grid = itertools.product((1e-4, 3e-3, 1e-1), (1, 4), (8, 128), ("a", "b", None))
    return [
        record(i, 0.05 * (1 + i % 7), lr=lr, layers=layers, width=width, head=head)
        for i, (lr, layers, width, head) in enumerate(grid)
    ]


def test_the_surface_gives_back_the_trials_in_all_kinds_of_dimensions():
    records = all_kinds()
    found = Surface([RANGE, LAYER, WIDTH, HEAD], records)([r.params for r in records])
    assert found == pytest.approx([r.best_nme for r in records], rel=0.01)


def test_the_surface_stays_between_best_and_worst_trial():
    records = [record(i, 0.1 / (i + 1), lr=lr) for i, lr in enumerate((1e-3, 2e-3, 4e-3))]
    everywhere = Surface([RANGE], records)([{"lr": lr} for lr in np.geomspace(1e-4, 1e-1, 99)])
    assert everywhere.min() >= 0.1 / 3 - 1e-12
    assert everywhere.max() <= 0.1 + 1e-12


def test_the_surface_is_straight_in_the_logarithm_of_a_logarithmic_range():
    records = [record(i, nme, lr=lr) for i, (lr, nme) in enumerate([(1e-4, 0.8), (1e-2, 0.2), (1e-1, 0.1)])]
    assert Surface([RANGE], records)([{"lr": 1e-3}])[0] == pytest.approx(0.4, rel=0.02)
    widths = [record(i, nme, width=w) for i, (w, nme) in enumerate([(8, 0.8), (32, 0.2), (128, 0.05)])]
    assert Surface([WIDTH], widths)([{"width": 16}])[0] == pytest.approx(0.4, rel=0.02)


def test_a_surface_needs_three_trials_with_a_finite_nme():
    records = [record(0, 0.1, lr=1e-3), record(1, 0.2, lr=1e-2), record(2, None, lr=1e-1), record(3, math.inf, lr=1e-4)]
    with pytest.raises(ValueError, match="needs three trials with an NME, but got 2"):
        Surface([RANGE], records)


def test_a_trial_that_was_repeated_gives_its_mean():
    records = [record(i, nme, lr=1e-3) for i, nme in enumerate((0.1, 0.2, 0.1, 0.2))] + [record(9, 0.4, lr=1e-1)]
    surface = Surface([RANGE], records)
    assert surface([{"lr": 1e-3}])[0] == pytest.approx(math.sqrt(0.1 * 0.2), rel=0.05)
    same = Surface([RANGE], [record(i, 0.1, lr=1e-3) for i in range(5)])
    assert same([{"lr": 5e-2}])[0] == pytest.approx(0.1)


def test_random_search_never_gets_worse_and_comes_again():
    dimensions, records = [RANGE, LAYER, WIDTH, HEAD], all_kinds()
    surface = Surface(dimensions, records)
    found = random_search(dimensions, surface, 12, repeats=30)
    assert found.shape == (30, 12)
    assert np.all(np.diff(found, axis=1) <= 0)
    assert np.array_equal(found, random_search(dimensions, surface, 12, repeats=30))
    assert not np.array_equal(found, random_search(dimensions, surface, 12, repeats=30, seed=1))
    assert len(np.unique(found[:, 0])) > 20  # the repeats are different


def test_random_search_draws_points_of_the_space_as_often_as_a_sampler_does():
    rng = np.random.default_rng(0)
    drawn = sample_randomly([RANGE, LAYER, WIDTH, HEAD], rng, 4000)
    for dimension in (RANGE, LAYER, WIDTH, HEAD):
        assert all(dimension.contains(point[dimension.key]) for point in drawn)
    layers = Counter(point["layers"] for point in drawn)
    assert [layers[n] / 4000 for n in (1, 2, 3, 4)] == pytest.approx([0.25] * 4, abs=0.04)  # the ends too
    heads = Counter(point["head"] for point in drawn)
    assert [heads[h] / 4000 for h in HEAD.choices] == pytest.approx([1 / 3] * 3, abs=0.04)
    assert np.mean([point["lr"] < 1e-3 for point in drawn]) == pytest.approx(1 / 3, abs=0.04)
    assert np.mean([point["width"] < 32 for point in drawn]) == pytest.approx(0.5, abs=0.04)

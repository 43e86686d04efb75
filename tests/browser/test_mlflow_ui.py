"""MLflow's own pages show a sweep without any setting up: a real sweep, a real server, a real browser.

The pages are those of the MLflow that is installed. Asserted is what a user sees: names, headings, axes, pictures.
"""

from __future__ import annotations

import math
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import LOCKSTEP, TINY, MlflowServer, Sweep
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from waiting import PATIENCE

from sweep.storage.event_log import Event, EventKind
from sweep.tracking.projector import MlflowSync
from sweep.tracking.shared_views import CHARTS, LEADERBOARD
from trainer.config import TrainConfig

pytestmark = pytest.mark.slow
MANY = 200
AXES = ["loss.star_weight", "optim.lr", "best_nme"]
# The first visit opens a chat panel over the right quarter of the page; here it is the second.
VISITED = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def find_browser(own: str) -> str:
    """The program of a Chromium: as told, as installed, or playwright's own."""
    if told := os.environ.get("STARSWEEP_TEST_BROWSER"):
        return told
    installed = map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))
    found = next(filter(None, installed), own if Path(own).exists() else None)
    if found is None:
        message = "no chromium on PATH (another place: STARSWEEP_TEST_BROWSER)"
        if os.environ.get("CI", "").lower() in {"true", "1"}:
            pytest.fail(f"{message}; in CI this is an error")
        pytest.skip(message)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        program = find_browser(playwright.chromium.executable_path)
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def sweep(browser, calm, tmp_path_factory) -> Sweep:
    """Five trials in the experiment "starsweep", one of them diverged before its first report, one stopped early."""
    sweep = Sweep(tmp_path_factory.mktemp("browser") / "home")
    shutil.copytree(calm[0].output, sweep.output)
    return sweep


@pytest.fixture(scope="module")
def server(sweep) -> Iterator[MlflowServer]:
    """Shows the store of the sweep."""
    server = MlflowServer(sweep.output)
    server.start()
    yield server
    server.kill()


def send_made_up(sweep: Sweep, trials: int, experiment: str) -> MlflowSync:
    """Sends a sweep of so many trials of eight epochs to an experiment, from its event log; every third is PRUNED."""
    folder = sweep.home / experiment
    folder.mkdir()
    clock, chance, lines = 1_700_000_000.0, random.Random(0), []

    def add(kind: EventKind, trial: int | None = None, **data) -> None:
        nonlocal clock
        clock += 1
        lines.append(Event(kind, trial, data, clock).to_line())

    train = TrainConfig.model_validate(TINY).model_dump(mode="json")
    space = {"loss.star_weight": {"log_uniform": [0.01, 100]}, "optim.lr": {"log_uniform": [1e-4, 1e-2]}}
    add(EventKind.SWEEP_STARTED, name="many", tags={}, config={"space": space, "train": train})
    for number in range(trials):
        lr, star_weight = 10 ** chance.uniform(-4, -2), 10 ** chance.uniform(-2, 2)
        params = {"loss.star_weight": star_weight, "optim.lr": lr}
        config = train | {"optim": train["optim"] | {"lr": lr}, "loss": train["loss"] | {"star_weight": star_weight}}
        add(EventKind.TRIAL_STARTED, number, params=params, config=config)
        epochs, state = (4, "PRUNED") if number % 3 == 2 else (8, "COMPLETE")
        for step in range(1, epochs + 1):
            add(EventKind.REPORT, number, step=step, metrics=dict.fromkeys(LOCKSTEP, star_weight / step))
        add(EventKind.TRIAL_ENDED, number, state=state, reason=None, best_nme=star_weight / epochs)
    add(EventKind.SWEEP_ENDED, state="FINISHED", summary=f"{trials} trials", best_trial=0, artifacts=[])
    log = folder / "events.jsonl"
    log.write_bytes(b"".join(lines))
    uri = f"sqlite:///{sweep.output / 'mlflow.db'}"
    sync = MlflowSync(log, uri, experiment, folder / "mlflow.json", folder / "mlartifacts")
    sync.catch_up()
    return sync


@pytest.fixture
def page(browser, server) -> Iterator[Page]:
    """A page of a fresh profile that asks nobody but the server."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE * 1000)
    context.add_init_script(VISITED)
    context.route(re.compile(rf"^https?://(?!127\.0\.0\.1:{server.port}/)"), lambda route: route.abort())
    expect.set_options(timeout=PATIENCE * 1000)
    yield context.new_page()
    context.close()


def open_experiment(page: Page, server: MlflowServer, sweep: Sweep, name: str) -> None:
    """The address that a user of "Model training" gets when he clicks on the experiment."""
    number = sweep.client().get_experiment_by_name(name).experiment_id
    page.goto(f"{server.uri}/#/experiments/{number}?workflowType=machine_learning")
    expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()


def link(page: Page, name: str | re.Pattern) -> Locator:
    return page.get_by_role("link", name=name, exact=isinstance(name, str))


def row_of(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=link(page, name))


def unfold(page: Page, parent: str) -> None:
    """Shows the trials of a sweep in the table of runs."""
    row_of(page, parent).get_by_role("gridcell").filter(has=link(page, parent)).get_by_role("button").click()
    expect(link(page, re.compile(r"^\d+ \w+="))).not_to_have_count(0)


def box(page: Page, name: str) -> Locator:
    return row_of(page, name).get_by_role("checkbox", name="Press Space")


def compare(page: Page) -> None:
    page.get_by_role("button", name="Compare", exact=True).click()
    page.wait_for_url("**/#/compare-runs?*")


def drawn(page: Page, runs: int) -> dict[str, list[float]]:
    """Axes of the plot that Compare opens with, in order, each with its value of each run; NaN is not drawn."""
    expect(page.get_by_role("heading", name=f"Comparing {runs} Runs from 1 Experiment")).to_be_visible()
    expect(page.get_by_role("tab", name="Parallel Coordinates Plot")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".axis-title")).to_have_text(AXES)
    data = page.locator(".js-plotly-plot").first.evaluate("plot => plot.data[0].dimensions")
    return {axis["label"]: [float(value) for value in axis["values"]] for axis in data}


def names(sweep: Sweep) -> dict[int, str]:
    """Run names of the trials by number."""
    return {number: run.info.run_name for number, run in sweep.runs().items() if number is not None}


def column(page: Page, key: str) -> list[str]:
    """The texts of a column of the table of runs, from above."""
    return page.evaluate(
        """key => {
            const row = cell => Number(cell.closest('.ag-row').getAttribute('row-index'))
            const cells = [...document.querySelectorAll(`.ag-cell[col-id="${key}"]`)]
            return cells.sort((a, b) => row(a) - row(b)).map(cell => (cell.querySelector('a') ?? cell).innerText)
        }""",
        key,
    )


def in_sight(page: Page, key: str) -> bool:
    """Whether a column of the table of runs can be seen without scrolling."""
    found = page.locator(f'.ag-header-cell[col-id="{key}"]').bounding_box()
    return found is not None and found["x"] + found["width"] <= 1400


LINES = """count => [...document.querySelectorAll('.js-plotly-plot')].some(plot => {
    const names = plot.data.filter(line => line.name && line.x.length).map(line => line.name)
    return new Set(names).size === count
})"""
COLUMNS = ["metrics.`best_nme`", "metrics.`epoch`", "params.`loss.star_weight`", "params.`optim.lr`"]
COLUMNS += ["tags.`starsweep.state`"]


def test_the_address_that_a_sweep_prints_shows_its_leaderboard(page, server, sweep, calm):
    (address,) = re.findall(r"the leaderboard:\s+http://127\.0\.0\.1:5000(/#\S+)", calm[1].stdout)
    page.goto(f"{server.uri}{address}")
    expect(page.get_by_text("5 matching runs")).to_be_visible()
    assert all(in_sight(page, key) for key in COLUMNS)
    rows = [row for row in sweep.leaderboard() if row["best_nme"]]
    best = sorted(rows, key=lambda row: float(row["best_nme"]))
    shown = [text.partition(" ")[0] for text in column(page, "attributes.`Run Name`")]
    assert shown[: len(best)] == [row["number"] for row in best]
    assert column(page, "tags.`starsweep.state`")[: len(best)] == [row["state"] for row in best]
    expect(page.get_by_role("button", name="faces: leaderboard")).to_be_visible()  # its name in the menu of views


def test_the_other_address_that_a_sweep_prints_shows_its_charts(page, server, sweep, calm):
    (address,) = re.findall(r"its charts:\s+http://127\.0\.0\.1:5000(/#\S+)", calm[1].stdout)
    page.goto(f"{server.uri}{address}")
    expect(page.get_by_role("main").get_by_text("val/nme", exact=True).first).to_be_visible()
    expect(page.locator(".scatterlayer .trace")).not_to_have_count(0)
    expect(page.get_by_role("main").get_by_text("Parallel Coordinates")).to_be_visible()


@pytest.mark.parametrize("trials", [1, 14, pytest.param(MANY, marks=pytest.mark.long)])
def test_leaderboard_and_charts_of_few_and_of_many_trials(page, server, sweep, trials):
    sync = send_made_up(sweep, trials, f"{trials} made up")
    page.goto(f"{server.uri}{sync.page(LEADERBOARD)}")
    expect(page.get_by_text(re.compile(rf"^{min(trials, 100)} matching runs?"))).to_be_visible()
    expect(page.locator('.ag-cell[col-id="metrics.`best_nme`"]').first).to_be_visible()
    assert all(in_sight(page, key) for key in COLUMNS)
    values = [float(text.rstrip("…")) for text in column(page, "metrics.`best_nme`")]
    assert values == sorted(values)
    states = dict(zip(column(page, "metrics.`epoch`"), column(page, "tags.`starsweep.state`"), strict=True))
    assert states == {"8": "COMPLETE"} | ({"4": "PRUNED"} if trials > 2 else {})
    page.goto("about:blank")  # only the part after # differs: the page would not be loaded anew
    page.goto(f"{server.uri}{sync.page(CHARTS)}")
    expect(page.locator(".scatterlayer .trace")).not_to_have_count(0)
    page.wait_for_function(LINES, arg=min(trials, 100))
    if trials > 1:
        expect(page.get_by_text("log10/loss.star_weight vs. log10/").first).to_be_visible()
    for axis in ("log10/optim.lr", "best_nme"):
        expect(page.get_by_role("main").get_by_text(axis).first).to_be_visible()


def test_a_sweep_is_one_run_with_its_trials_below(page, server, sweep):
    open_experiment(page, server, sweep, "starsweep")
    assert "/runs" in page.url  # not the pages for GenAI
    expect(row_of(page, "faces")).to_be_visible()
    expect(page.get_by_text("6 matching runs")).to_be_visible()
    for name in names(sweep).values():
        expect(link(page, name)).to_have_count(0)
    unfold(page, "faces")
    for name in names(sweep).values():
        expect(link(page, name)).to_be_visible()
    parent, trial = link(page, "faces").bounding_box(), link(page, names(sweep)[0]).bounding_box()
    assert trial["x"] > parent["x"] + 5  # indented


def test_compare_shows_the_searched_settings_and_the_best_nme(page, server, sweep):
    assert sweep.states()[1] == "DIVERGED"  # it has no NME, and takes the axis from nobody
    open_experiment(page, server, sweep, "starsweep")
    unfold(page, "faces")
    box(page, names(sweep)[4]).check()
    box(page, names(sweep)[0]).click(modifiers=["Shift"])
    compare(page)
    axes = drawn(page, runs=5)
    for axis in AXES:
        expected = [float(row[axis] or "nan") for row in sweep.leaderboard()]
        assert sorted(map(repr, axes[axis])) == sorted(map(repr, expected)), axis


def test_compare_of_the_whole_sweep_draws_the_trials_only(page, server, sweep):
    open_experiment(page, server, sweep, "starsweep")
    unfold(page, "faces")
    box(page, "faces").check()  # and with it the trials
    compare(page)
    axes = drawn(page, runs=6)
    assert sum(math.isnan(value) for value in axes["loss.star_weight"]) == 1


def test_compare_leads_to_the_nme_curves_by_epoch(page, server, sweep):
    open_experiment(page, server, sweep, "starsweep")
    unfold(page, "faces")
    box(page, "faces").check()
    compare(page)
    link(page, "val/nme").click()
    expect(page.get_by_role("heading", name="val/nme").first).to_be_visible()
    expect(page.get_by_role("radio", name="Step", exact=True)).to_be_checked()
    expect(page.get_by_text("(step=3)").first).to_be_visible()
    expect(page.locator(".scatterlayer .trace")).not_to_have_count(0)
    lines = page.locator(".js-plotly-plot").evaluate("plot => plot.data.map(line => [line.name, [...line.x]])")
    epochs = {names(sweep)[trial]: [] for trial, _ in sorted(sweep.reports())}
    for trial, epoch in sorted(sweep.reports()):
        epochs[names(sweep)[trial]].append(epoch)
    assert {name: steps for name, steps in lines if steps} == epochs


def test_the_chart_view_draws_the_curves_of_all_trials(page, server, sweep):
    open_experiment(page, server, sweep, "starsweep")
    expect(row_of(page, "faces")).to_be_visible()
    unfold(page, "faces")
    page.locator("label").filter(has=page.locator("input[value=CHART]")).click()
    expect(page.locator(".scatterlayer .trace").first).to_be_visible()
    for metric in ("train/loss", "val/nme"):
        expect(page.get_by_role("main").get_by_text(metric, exact=True).first).to_be_visible()


def test_the_note_of_the_sweep_shows_its_summary(page, server, sweep):
    open_experiment(page, server, sweep, "starsweep")
    link(page, "faces").click()
    complete = list(sweep.states().values()).count("COMPLETE")
    expect(page.get_by_text(re.compile(rf"^5 trials: {complete} complete, .*; best val NME [\d.]+%"))).to_be_visible()
    table = page.get_by_role("table").filter(has=page.get_by_role("columnheader", name="best val NME"))
    expect(table.get_by_role("row")).to_have_count(1 + 5)  # Markdown, drawn as a table
    expect(link(page, re.compile("^[0-4] lr="))).to_have_count(5)  # and the trials, a click away


def test_the_picture_of_a_trial_opens(page, server, sweep):
    open_experiment(page, server, sweep, "starsweep")
    unfold(page, "faces")
    link(page, names(sweep)[0]).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("ced.png", exact=True).first.click()
    page.wait_for_function("[...document.querySelectorAll('main img')].some(i => i.naturalWidth > 300)")


@pytest.mark.long
def test_200_trials_are_shown_and_compared(page, server, sweep):
    send_made_up(sweep, MANY, "many trials")
    open_experiment(page, server, sweep, "many trials")
    expect(link(page, "many")).to_have_count(1)
    page.get_by_role("button", name="Load more").click()
    expect(page.get_by_text(f"{MANY + 1} matching runs")).to_be_visible()
    unfold(page, "many")
    expect(link(page, re.compile(f"^{MANY - 1} star_weight="))).to_be_visible()
    page.locator(".ag-body-viewport").evaluate("table => table.scrollTo(0, table.scrollHeight)")
    expect(link(page, re.compile("^0 star_weight="))).to_be_visible()
    page.locator(".ag-body-viewport").evaluate("table => table.scrollTo(0, 0)")
    box(page, "many").check()
    compare(page)
    axes = drawn(page, runs=MANY + 1)
    assert len(set(axes["loss.star_weight"])) > MANY

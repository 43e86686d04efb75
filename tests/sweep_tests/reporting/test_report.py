"""report.html: written at the end of a sweep and by its command, whole without a network, and true."""

import base64
import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from harness import CALM, TINY, Sweep, call, rows
from waiting import PATIENCE
from written_sweeps import MIXED, PLANE, SHAPES, SPEED, TWO, some, with_head, write_sweep, write_two_objectives

from sweep import report, run
from sweep.analysis.error_analysis import analyse_errors
from sweep.analysis.sweep_result import load
from sweep.core.stop_request import StopRequest
from sweep.driver import session
from sweep.reporting import html_report
from sweep.storage.event_log import Event, EventKind
from trainer.data.crop_cache import load_split
from trainer.evaluation import evaluate
from trainer.inference import load_trained
from trainer.landmarks import LAYOUTS
from trainer.run_folder import FACES_FILE

SECTIONS = [
    "Result",
    "What is known about the winner",
    "NME over lr and star_weight",
    "Parallel coordinates",
    "Importance of the parameters",
    "Learning curves",
    "Error distribution",
    "Optimisation history",
    "Timeline of the slots",
    "NME by part of the face",
    "NME by subset",
    "Worst faces of the winner",
    "Where the numbers come from",
]
SETTINGS = CALM | {
    "report": True,
    "trials": 3,
    "space": {"optim.lr": {"log_uniform": [1e-6, 1e30]}, "loss.star_weight": {"log_uniform": [0.1, 10]}},
    "pruner": {"name": "none"},
    "train": TINY | {"optim": {"epochs": 2, "batch_size": 8}},
}


class Page(HTMLParser):
    """What a page would load, and what its sections say."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.sections: dict[str, str] = {}
        self.images: list[str] = []
        self._inside: list[str] = []
        self._title = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        addresses = [value for key in ("src", "href", "data", "srcset", "action") if (value := found.get(key))]
        self.loaded += [address for address in addresses if not address.startswith("data:")]
        if tag == "link":
            self.loaded.append("link")
        if tag == "img":
            self.images.append(found["src"])
        if tag not in ("img", "br", "meta"):
            self._inside.append(tag)

    def handle_endtag(self, tag):
        self._inside.pop()

    def handle_data(self, data):
        if self._inside and self._inside[-1] == "h2":
            self._title = data
            self.sections[data] = ""
        elif self._title and "script" not in self._inside:
            self.sections[self._title] += data + " "
        if self._inside and self._inside[-1] == "style":
            self.loaded += re.findall(r"@import|url\([^)]*\)", data)


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "sweep.report", *words]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A small sweep that was run to its end, with one trial that diverges."""
    sweep = Sweep(tmp_path_factory.mktemp("report") / "home", settings=SETTINGS)
    process = sweep.run()
    assert process.returncode == 0, process.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(sweep.cache))
        yield sweep, process
    shutil.rmtree(sweep.home)  # weights of a ResNet-18 are 45 MB


@pytest.fixture
def copied(ended, tmp_path) -> Iterator[Sweep]:
    sweep = Sweep(tmp_path / "home", settings=SETTINGS)
    shutil.copytree(ended[0].output, sweep.output)
    yield sweep
    shutil.rmtree(sweep.home)


# The end of a sweep


@pytest.mark.slow
def test_a_sweep_ends_with_its_report_which_mlflow_has_too(ended):
    sweep, process = ended
    page = Page(sweep.folder / "report.html")
    assert list(page.sections) == SECTIONS
    assert "3 trials: 2 complete, 1 diverged" in page.sections["Result"]
    assert "look at it:         out/faces/report.html" in process.stdout
    assert process.stderr == ""
    parent = sweep.runs()[None].info.run_id
    assert "report.html" in sweep.artifacts(parent)
    assert not list(sweep.folder.glob(".report*"))


@pytest.mark.slow
def test_the_command_writes_it_again_without_a_word_too_many(ended):
    sweep, _ = ended
    path = sweep.folder / "report.html"
    before = Page(path).sections
    path.unlink()
    process = command("faces", "--output", "out", cwd=sweep.home)
    assert (process.returncode, process.stdout.strip()) == (0, str(path.resolve())), process.stderr
    assert process.stderr == ""
    assert Page(path).sections.keys() == before.keys()
    assert Page(path).sections["Result"] == before["Result"]


@pytest.mark.slow
def test_it_loads_nothing_and_is_small_enough_to_send(ended):
    path = ended[0].folder / "report.html"
    page = Page(path)
    assert page.loaded == []
    assert path.stat().st_size < 8e6
    assert len(page.images) == 6
    for address in page.images:
        assert base64.b64decode(address.removeprefix("data:image/jpeg;base64,"))[:3] == b"\xff\xd8\xff"


@contextlib.contextmanager
def browser():
    """A real browser of this machine, without a network; without one, the test is skipped, but never in CI."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for name in names if (path := shutil.which(name))), None)
    if program is None:
        assert not os.environ.get("CI"), "CI must have a browser"
        pytest.skip("there is no browser on this machine")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        context = chromium.new_context(offline=True)
        context.set_default_timeout(PATIENCE * 1000)
        yield context
        chromium.close()


@pytest.mark.slow
def test_a_browser_without_a_network_draws_every_figure(ended, tmp_path):
    strange = write_sweep(tmp_path, MIXED, with_head(some(20)), name="full")
    empty = write_sweep(tmp_path, PLANE, [], name="empty")
    both = html_report.write_report([strange, load(ended[0].folder)], tmp_path / "both.html")
    own = [html_report.write_report([sweep], sweep.folder / "report.html") for sweep in (strange, empty)]
    drawn = {}
    with browser() as context:
        for path in (ended[0].folder / "report.html", *own, both):
            page = context.new_page()
            troubles: list[str] = []
            page.on("console", lambda m, to=troubles: to.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error, to=troubles: to.append(str(error)))
            page.on("requestfailed", lambda request, to=troubles: to.append(request.url))
            page.on("request", lambda r, to=troubles: to.append(r.url) if r.url.startswith(("http", "ws")) else None)
            page.goto(path.as_uri())
            plots = page.locator(".plotly-graph-div")
            page.wait_for_function("count => document.querySelectorAll('svg.main-svg').length >= count", arg=0)
            for i in range(plots.count()):
                plots.nth(i).locator("svg.main-svg").first.wait_for()
            for section in page.locator("section").all():
                title = section.locator("h2").inner_text()
                drawn[path.parent.name, path.stem, title] = section.locator("svg.main-svg").count() > 0
                words = section.locator("p, td").all_inner_texts()
                assert drawn[path.parent.name, path.stem, title] or any(text.strip() for text in words), title
            images = page.evaluate("[...document.images].map(image => image.complete && image.naturalWidth > 100)")
            assert all(images)
            assert troubles == []
            page.close()
    real = {title for (folder, stem, title), plot in drawn.items() if folder == "faces" and plot}
    assert real == set(SECTIONS[3:4] + SECTIONS[5:11])  # two trials make no surface
    assert sum(plot for (folder, _, _), plot in drawn.items() if folder == "full") == 6
    assert sum(plot for (folder, _, _), plot in drawn.items() if folder == "empty") == 0
    assert sum(plot for (_, stem, _), plot in drawn.items() if stem == "both") == 3


def figures(path: Path) -> list[list[dict]]:
    """The traces of each figure of a report, as its browser would get them."""
    decoder, text = json.JSONDecoder(), path.read_text(encoding="utf-8")
    starts = re.finditer(r'Plotly\.newPlot\(\s*"[0-9a-f-]+",\s*', text)
    return [decoder.raw_decode(text, start.end())[0] for start in starts]


def values(array: object) -> list[float]:
    """Plotly writes arrays as lists, or as base64 of their bytes."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).tolist()
    return list(array)  # type: ignore[call-overload]


@pytest.mark.slow
def test_numbers_in_the_file_are_those_that_the_trainer_wrote(ended):
    sweep, _ = ended
    made = figures(sweep.folder / "report.html")
    curves = next(
        {t["hovertemplate"].split(":")[0]: t for t in of}
        for of in made
        if "hovertemplate" in of[0] and "epoch %{x}" in of[0]["hovertemplate"]
    )
    for number in (0, 2):
        written = rows(sweep.folder / "trials" / f"{number:04d}")
        assert values(curves[f"trial {number}"]["x"]) == [row["epoch"] for row in written]
        assert values(curves[f"trial {number}"]["y"]) == [row["val/nme"] * 100 for row in written]
    winner = load(sweep.folder).best
    errors = np.load(sweep.folder / "trials" / f"{winner.number:04d}" / FACES_FILE)
    ced = next(t for of in made for t in of if t.get("hovertemplate", "").startswith("%{y:.1f} % of the faces"))
    assert values(ced["y"])[-1] == pytest.approx(100 * np.mean(errors <= 0.1))
    assert ced["name"].endswith("(known before)")


@pytest.mark.slow
def test_the_worst_faces_are_those_with_the_largest_error(ended):
    sweep = load(ended[0].folder)
    measured = analyse_errors(sweep.config, sweep.best.number, count=3)
    config, model = load_trained(sweep.config.trial_folder(sweep.best.number))
    split = load_split(config.data, "val")
    errors = np.load(sweep.config.trial_folder(sweep.best.number) / FACES_FILE)
    assert evaluate(model, split, config).nme == pytest.approx(errors)
    worst = np.argsort(-errors)[:3]
    assert [face.nme for face in measured.worst] == pytest.approx(errors[worst].tolist())
    assert [face.name for face in measured.worst] == [split.pictures[i].rpartition("/")[2] for i in worst]
    assert measured.report["nme"] == pytest.approx(sweep.best.best_nme)
    assert measured.data_hash == split.fingerprint()
    page = Page(ended[0].folder / "report.html")
    told = re.findall(r"NME ([\d.]+)%", page.sections["Worst faces of the winner"])
    assert told == [f"{nme * 100:.1f}" for nme in np.sort(errors)[::-1][:6]]
    assert measured.data_hash in page.sections["Where the numbers come from"]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["deleted", "damaged"])
def test_without_the_winners_weights_the_report_has_everything_but_faces(damage, copied):
    sweep = load(copied.folder)
    weights = sweep.config.trial_folder(sweep.best.number) / "best.pt"
    weights.unlink()
    if damage == "damaged":
        weights.write_bytes(b"PK\x03\x04 no zip")
    page = Page(html_report.write_report([sweep], sweep.folder / "report.html"))
    assert list(page.sections) == SECTIONS
    assert page.images == []
    assert "The winner's weights or the faces are not here." in page.sections["Worst faces of the winner"]
    assert len(figures(sweep.folder / "report.html")) == 5


@pytest.mark.slow
def test_a_sweep_whose_report_cannot_be_written_ends_well(copied, capsys, monkeypatch):
    (copied.folder / "report.html").unlink()
    monkeypatch.setattr(html_report, "_TEMPLATE", "absent.html")
    (copied.folder / "trials" / f"{load(copied.folder).best.number:04d}" / "best.pt").write_bytes(b"damaged")
    assert run.main(copied.words()) == 0  # all trials are there; only the report is missing
    captured = capsys.readouterr()
    assert "report could not be written" in " ".join((captured.out + captured.err).split())
    assert "Traceback" not in captured.out + captured.err
    assert "TemplateNotFound" in (copied.folder / "sweep.log").read_text()
    assert copied.runs()[None].info.status == "FINISHED"
    copied.check(trials=3)


@pytest.mark.slow
def test_a_report_is_written_unless_the_user_interrupts_or_does_not_want_it(copied):
    path = copied.folder / "report.html"
    before = path.read_bytes()
    config = load(copied.folder).config
    with StopRequest() as stop:
        session._write_report(config, stop, anew=False)
        assert path.read_bytes() == before  # nothing ran since
        path.unlink()
        session._write_report(config.model_copy(update={"report": False}), stop, anew=True)
        assert not path.exists()
        session._write_report(config, stop, anew=True)
        assert list(Page(path).sections) == SECTIONS
        path.unlink()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.by_user
        session._write_report(config, stop, anew=True)
        assert not path.exists()


# What it says


def page_of(sweep, folder: Path) -> Page:
    return Page(html_report.write_report([sweep], folder / "page.html"))


@pytest.mark.parametrize("shape", ["no trial yet", "one trial", "all diverged", "two hundred", "one choice"])
def test_every_shape_of_sweep_has_a_whole_report(shape, tmp_path):
    space, trials, settings = SHAPES[shape]
    page = page_of(write_sweep(tmp_path, space, trials, **settings), tmp_path)
    assert len(page.sections) == len(SECTIONS)
    assert all(text.strip() for text in page.sections.values())
    assert page.loaded == []


def test_names_from_outside_are_text_and_never_markup(tmp_path):
    evil = '</script><img src="x.png">&amp;"'
    space = {**PLANE, "model.pretrained": {"choice": ["none", evil]}}
    trials = [({**params, "model.pretrained": evil}, curve, state) for params, curve, state in some(12)]
    sweep = write_sweep(tmp_path, space, trials)
    page = page_of(sweep, tmp_path)
    assert list(page.sections)[2:] == SECTIONS[2:]
    assert page.images == []
    assert page.loaded == []
    assert evil in page.sections["Result"]
    assert "<here> & there" in page.sections["Where the numbers come from"]
    assert evil not in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert any(evil in (t.get("hovertemplate") or "") for of in figures(tmp_path / "page.html") for t in of)
    assert evil in html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("norm", [None, "inter_ocular", "inter_pupil", "box"])
def test_the_nme_is_explained_as_it_was_measured(layout, norm, tmp_path):
    """Every layout, in report and card, by the one name and the one text that the trainer has for it."""
    data = {"kind": "coco", "root": str(tmp_path), "layout": layout, "image_size": 32, "nme_norm": norm}
    sweep = write_sweep(tmp_path, PLANE, TRIALS, train=TINY | {"data": data, "optim": {"epochs": 4}})
    measured = LAYOUTS[layout].norm(norm)
    assert sweep.config.train.data.norm is measured
    html_report.write_report([sweep], tmp_path / "page.html")
    text = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert f"divided by {measured.text} ({measured.name})" in text


# Two objectives


def test_two_objectives_have_a_figure_of_their_front_and_a_line_that_names_it(tmp_path):
    page = page_of(write_two_objectives(tmp_path, SPEED, TWO), tmp_path)
    assert list(page.sections) == [*SECTIONS[:3], "Pareto front", *SECTIONS[3:]]
    assert "The line joins the complete trials that no other beats in both." in page.sections["Pareto front"]
    assert (
        "Pareto front of NME and images_per_second: trial 0 5.00%, 100.0 images/s; trial 1 6.00%, 300.0 images/s; "
        "trial 3 8.00%, 400.0 images/s"
    ) in page.sections["Result"]
    line = next(t for of in figures(tmp_path / "page.html") for t in of if t.get("name") == "front")
    assert values(line["x"]) == [100, 300, 400]
    assert values(line["y"]) == pytest.approx([5, 6, 8])


def test_two_objectives_without_a_complete_trial_say_so(tmp_path):
    page = page_of(write_two_objectives(tmp_path, "fr10", [(0.1, 0.5, "PRUNED")]), tmp_path)
    assert "There is too little to draw this" in page.sections["Pareto front"]
    assert "Pareto front of NME and fr10: no complete trial" in page.sections["Result"]


def test_one_objective_has_no_front(tmp_path):
    page = page_of(write_sweep(tmp_path, PLANE, some(6)), tmp_path)
    assert "Pareto" not in "".join([*page.sections, *page.sections.values()])


def test_the_result_says_what_more_budget_is_expected_to_bring(tmp_path):
    params = {"optim.lr": 1e-3, "loss.star_weight": 1.0}
    trials = [(params, [nme] * 4, "COMPLETE") for nme in (0.2, 0.25, 0.1, 0.15)]  # two at a time
    text = page_of(write_sweep(tmp_path, PLANE, trials), tmp_path).sections["Result"]
    assert "4 trials are complete; as much budget again is expected to lower the best val NME by about 1.18" in text
    text = page_of(write_sweep(tmp_path, PLANE, trials[:1]), tmp_path).sections["Result"]
    assert "is expected to lower" not in text


# What is known of the winner


def finding(about: str, detail: dict) -> Event:
    return Event(EventKind.FINDING, None, {"about": about, "metrics": {}, "detail": detail})


def spread(trial: int, mean: float, std: float, seeds: Sequence[int] = (1, 2, 3)) -> dict:
    return {"trial": trial, "seeds": list(seeds), "nme": [mean] * len(seeds), "mean": mean, "std": std}


def compared(std: float, **more: object) -> dict:
    told = {"difference": 0.005, "interval": [-0.001, 0.011], "distinguishable": False}
    return {"winner": spread(0, 0.1, std), "runner_up": spread(1, 0.105, std), **told, **more}


TRIALS = [
    ({"optim.lr": 1e-3 * (i + 1), "loss.star_weight": 1.0}, [0.3, nme], state)
    for i, (nme, state) in enumerate(
        [(0.1, "COMPLETE"), (0.105, "COMPLETE"), (0.112, "COMPLETE"), (0.13, "COMPLETE"), (0.101, "PRUNED")]
    )
]


def test_seed_noise_is_asked_for_until_it_is_measured(tmp_path):
    sweep = write_sweep(tmp_path, PLANE, TRIALS)
    text = page_of(sweep, tmp_path).sections["What is known about the winner"]
    assert "Seed noise: not measured" in text
    assert "python -m sweep.rerun told --seeds 5" in text
    assert "Test: not read" in text


def test_what_is_odd_about_the_faces_stands_beside_what_is_known_about_the_winner(tmp_path):
    odd = "2 pictures are in both train and val (2 by name), such as a.jpg"
    for name, warnings in (("odd", odd), ("plain", "none")):
        started = {"name": name, "tags": {"faces.warnings": warnings}, "config": {}}
        sweep = write_sweep(tmp_path, PLANE, TRIALS, more=[Event(EventKind.SWEEP_STARTED, None, started)], name=name)
        text = page_of(sweep, tmp_path).sections["What is known about the winner"]
        assert (f"Faces: {odd}." in text) == (name == "odd")
        assert ("Faces:" in text) == (name == "odd")


def test_trials_nearer_than_the_seed_noise_are_counted(tmp_path):
    std = 0.002  # t(0.975, 2) * sqrt(2) * 0.002 = 0.01217: trials 1 (+0.005) and 2 (+0.012), not 3 (+0.03)
    sweep = write_sweep(tmp_path, PLANE, TRIALS, more=[finding("seeds", compared(std))])
    text = page_of(sweep, tmp_path).sections["What is known about the winner"]
    assert "Seed noise: 0.20 points (standard deviation of 3 seeds)" in text
    assert "differ by less than 1.22 points 19 times in 20" in text
    assert "2 of 3 other complete trials lie so near to the winner" in text
    assert "trial 0 with 3 other seeds: val NME 10.00% +- 0.20%" in text
    assert "+0.50 points (95 %: -0.10 to +1.10): it cannot be told from the winner" in text


def test_one_seed_tells_no_noise(tmp_path):
    detail = {"winner": spread(0, 0.1, float("nan"), [1]), "runner_up": None}
    sweep = write_sweep(tmp_path, PLANE, TRIALS, more=[finding("seeds", detail)])
    text = page_of(sweep, tmp_path).sections["What is known about the winner"]
    assert "nan" not in text
    assert "19 times in 20" not in text


FINAL = {
    "trial": 0,
    "runs": ["final-0000-0", "final-0000-1"],
    "seeds": [0, 1],
    "faces": 300,
    "nme": 0.0671,
    "fr10": 0.12,
    "auc10": 0.3725,
    "nme_of_seeds": [0.0661, 0.068],
    "std": 0.0013,
    "interval": [0.0632, 0.0714],
    "subsets": {"pose": {"nme": 0.11, "fr10": 0.4, "auc10": 0.1, "faces": 45}},
    "parts": {"nose": 0.0586},
}


def read(reading: int) -> Event:
    return Event(EventKind.TEST_READ, None, {"reading": reading, "networks": 2})


@pytest.mark.parametrize(("readings", "words"), [(1, "was read 1 time."), (2, "was read 2 times.")])
def test_the_test_number_comes_with_the_count_of_its_readings(readings, words, tmp_path):
    more = [read(i + 1) for i in range(readings)] + [finding("final", FINAL)]
    sweep = write_sweep(tmp_path, PLANE, TRIALS, more=more)
    page = page_of(sweep, tmp_path)
    text = page.sections["What is known about the winner"]
    assert "test NME 6.71% +- 0.13% over 2 seeds (95 %: 6.32% to 7.14%)" in text
    assert f"The test split {words}" in text
    assert "Test: not read" not in text
    bars = [t for of in figures(tmp_path / "page.html") for t in of if t["type"] == "bar" and "text" in t]
    groups = {(t["name"], tuple(t["x"])): values(t["y"]) for t in bars if t["name"].startswith("final model")}
    assert groups == {("final model, test", ("nose",)): [5.86], ("final model, test", ("pose",)): [11.0]}


def test_a_reading_that_gave_no_number_is_told_too(tmp_path):
    sweep = write_sweep(tmp_path, PLANE, TRIALS, more=[read(1)])
    text = page_of(sweep, tmp_path).sections["What is known about the winner"]
    assert "Test: not read" not in text
    assert "was read 1 time" in text


# Several sweeps


def test_equal_sweeps_stand_side_by_side(tmp_path, capsys):
    output = tmp_path / "out"
    for name in ("a", "b"):
        write_sweep(output, PLANE, TRIALS, name=name, more=[finding("seeds", compared(0.001))])
    code, out, _ = call(report.main, capsys, "a", "b", "--output", str(output))
    assert (code, out.strip()) == (0, str(output / "report-a-b.html"))
    page = Page(output / "report-a-b.html")
    assert list(page.sections) == [
        "Side by side",
        "Best NME against epochs",
        "Error distribution of the winners",
        "All trials",
        "Sweep a",
        "Sweep b",
    ]
    text = page.sections["Side by side"]
    assert "the budgets are equal" in text
    assert text.count("10.00% +- 0.10%") == 2
    assert text.count("lr=0.001 star_weight=1") == 2
    first = [of for of in figures(output / "report-a-b.html") if [t.get("name") for t in of] == ["a", "b"]]
    assert len(first) == 2  # histories, and all trials
    assert page.loaded == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 50}, "trials"),
        ({"train": TINY | {"optim": {"epochs": 9, "batch_size": 8}}}, "epochs a trial"),
        ({"train": TINY | {"model": {"backbone": "resnet34", "width": 8}}}, "epochs a trial, backbone"),
        ({"train": TINY | {"data": TINY["data"] | {"val_faces": 9}, "optim": {"epochs": 4}}}, "data"),
        ({"train": TINY | {"data": TINY["data"] | {"workers": 1}, "optim": {"epochs": 4}}}, None),
    ],
)
def test_what_is_not_equal_is_warned_of(changes, words, tmp_path):
    both = [write_sweep(tmp_path, PLANE, TRIALS, name="a"), write_sweep(tmp_path, PLANE, TRIALS, name="b", **changes)]
    text = Page(html_report.write_report(both, tmp_path / "page.html")).sections["Side by side"]
    assert ("Not on equal terms" in text) is (words is not None)
    if words:
        assert f"these differ: {words}." in text


def test_sweeps_without_any_trial_stand_side_by_side(tmp_path):
    both = [write_sweep(tmp_path, PLANE, [], name=name) for name in ("a", "b")]
    page = Page(html_report.write_report(both, tmp_path / "page.html"))
    assert all(text.strip() for text in page.sections.values())


def test_bad_input_is_refused_in_one_line(tmp_path, capsys):
    write_sweep(tmp_path, PLANE, TRIALS)
    code, _, err = call(
        report.main, capsys, "told", "--output", str(tmp_path), "--out", str(tmp_path / "none" / "r.html")
    )
    assert code == 2
    assert f"there is no folder {tmp_path / 'none'}" in err
    code, _, err = call(report.main, capsys, "sold", "--output", str(tmp_path))
    assert code == 2
    assert f"sold: no sweep of this name in {tmp_path}" in err
    assert "(there: told)" in err
    code, _, err = call(report.main, capsys, "told", "--output", str(tmp_path), "--out", str(tmp_path))
    assert code in (1, 2)
    assert "Traceback" not in err
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))  # nothing is left of the attempt
    assert not (tmp_path / "told" / "report.html").exists()


def test_out_names_the_file(tmp_path, capsys):
    write_sweep(tmp_path, PLANE, TRIALS)
    code, out, _ = call(report.main, capsys, "told", "--output", str(tmp_path), "--out", str(tmp_path / "mine.html"))
    assert (code, out.strip()) == (0, str(tmp_path / "mine.html"))
    assert not (tmp_path / "told" / "report.html").exists()

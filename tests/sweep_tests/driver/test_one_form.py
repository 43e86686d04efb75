"""All trials of a sweep are computed in one form, which the machine decides once and which is written down."""

import signal
from pathlib import Path

import pytest
import yaml
from harness import CALM, TINY, Sweep, read_until
from prepared import teach
from waiting import PATIENCE

from sweep import load
from sweep.core.config_file import load_sweep
from trainer.config import TrainConfig
from trainer.forms import Form, form_of

pytestmark = pytest.mark.slow
OPEN = CALM | {"trials": 1, "train": TINY | {"run": {"precision": "auto", "channels_last": "auto"}}}
FORMS = [Form(precision, last) for precision in ("float32", "bfloat16") for last in (False, True)]


def quick_in(sweep: Sweep, quick: Form) -> dict[str, str]:
    """The environment of a machine that is five times faster in one form than in the others."""
    cache = sweep.home / f"cache of {quick}"
    teach(load_sweep(sweep.home / "faces.yaml", {}).train, cache, quick)
    return {"XDG_CACHE_HOME": str(cache)}


def forms(sweep: Sweep) -> set[Form]:
    """Of all configs that the sweep has left."""
    paths = [*sweep.folder.glob("trials/*/config.yaml"), sweep.folder / "best.yaml"]
    return {written_form(sweep), *(form_of(TrainConfig.load(path)) for path in paths)}


def written_form(sweep: Sweep) -> Form:
    """That of its config, which is written before the first trial."""
    return form_of(TrainConfig.from_tree(yaml.safe_load((sweep.folder / "sweep.yaml").read_text())["train"]))


@pytest.mark.long
def test_the_fastest_is_taken_written_down_and_kept(tmp_path: Path) -> None:
    sweep, quick = Sweep(tmp_path / "home", settings=OPEN), FORMS[0]
    done = sweep.run(**quick_in(sweep, quick))
    assert done.returncode == 0, done.stderr
    assert f"networks are computed in {quick}: 50.0 images/s, taught" in done.stdout
    assert forms(sweep) == {quick}
    run = sweep.runs()[None].data
    assert run.params["run.precision"] == quick.precision
    assert run.tags["form"] == str(quick)
    assert run.tags["form.speeds.this machine"].startswith(f"{quick} 50.0, ")
    other = FORMS[1]
    again = sweep.run("--trials", "2", **quick_in(sweep, other))  # now another form is faster: the sweep keeps its own
    assert again.returncode == 0, again.stderr
    assert "networks are computed" not in again.stdout
    assert "10.0" not in again.stdout
    assert forms(sweep) == {quick}
    assert len(load(sweep.folder).records) == 2


def test_what_is_said_is_obeyed_and_told_where_it_is_slow(tmp_path: Path) -> None:
    said = OPEN | {"train": TINY | {"run": {"precision": "float32", "channels_last": True}}}
    sweep = Sweep(tmp_path / "home", settings=said)
    with sweep.start(**quick_in(sweep, FORMS[0])) as process:
        *_, line = read_until(process, " times slower ")
        process.send_signal(signal.SIGINT)  # what comes after is that of any sweep
        assert process.wait(PATIENCE) == 130
    assert "this machine: float32 NHWC is 5.0 times slower here than float32 NCHW" in line
    assert written_form(sweep) == FORMS[1]


def test_the_dry_run_shows_all_forms_and_measures_them_where_nothing_is_known(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path / "home", settings=OPEN)
    done = sweep.run("--dry-run", XDG_CACHE_HOME=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    for form in FORMS:
        assert str(form) in done.stdout
    assert "measured here with 1 thread, 32 px" in done.stdout

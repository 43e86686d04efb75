"""The recipes are listed, and each is written out as one file that means the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep import recipes
from sweep.core.config_file import RECIPES, load_sweep
from trainer.config import TrainConfig

SWEEPS = sorted(path.stem for path in (RECIPES / "sweep").glob("*.yaml"))
TRAININGS = sorted(path.stem for path in (RECIPES / "train").glob("*.yaml"))


def test_all_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipes.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*SWEEPS, *(f"train/{name}" for name in TRAININGS)]
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_is_written_whole(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipes.main([name]) == 0
    assert f"-m sweep.run {name}.yaml\n" in capsys.readouterr().out
    written = Path(f"{name}.yaml")
    assert load_sweep(written, {}) == load_sweep(RECIPES / "sweep" / f"{name}.yaml", {})
    assert written.read_text().startswith("# ")
    assert "../train" not in written.read_text()


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_written_too(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.yaml"
    assert recipes.main([f"train/{name}", "--out", str(out)]) == 0
    assert f"-m trainer.train {out}\n" in capsys.readouterr().out
    assert TrainConfig.load(out) == TrainConfig.load(RECIPES / "train" / f"{name}.yaml")


def test_nothing_is_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text("mine\n")
    with pytest.raises(SystemExit) as ended:
        recipes.main(["demo"])
    assert ended.value.code == 2
    assert "demo.yaml is there already; --out names another file" in capsys.readouterr().err
    assert Path("demo.yaml").read_text() == "mine\n"


def test_an_unknown_name_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        recipes.main(["dmo"])
    assert ended.value.code == 2
    assert "dmo: no such recipe (nearest valid key: demo)" in capsys.readouterr().err

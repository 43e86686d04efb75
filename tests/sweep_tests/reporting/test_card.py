"""The model card: its row, its files, what it admits, and that nothing of this machine is in it."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import call
from written_sweeps import PARAMS, PLANE, final, note, read, write_sweep, write_trained

from sweep import card
from sweep.analysis.sweep_result import SweepResult, load
from sweep.storage.event_log import Event, EventKind
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.inference import load_trained

MODEL = "resnet18_star_synthetic_32x32"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[SweepResult]:
    sweep = write_trained(tmp_path_factory.mktemp("card") / "out")
    yield sweep
    shutil.rmtree(sweep.folder.parent)  # weights of a ResNet-18 are 45 MB


@pytest.fixture
def sweep(trained, tmp_path) -> Iterator[SweepResult]:
    shutil.copytree(trained.folder, tmp_path / "out" / "told")
    yield load("told", tmp_path / "out")
    shutil.rmtree(tmp_path / "out")


def run_card(sweep: SweepResult, capsys, *words: str) -> tuple[int, str, str]:
    return call(card.main, capsys, sweep.name, "--output", str(sweep.folder.parent), *words)


def make(sweep: SweepResult, capsys) -> str:
    """The text of the card."""
    code, out, err = run_card(sweep, capsys, "--no-register")
    assert (code, err) == (0, "")
    path = sweep.folder / "card" / "README.md"
    assert out.strip() == str(path)
    return path.read_text(encoding="utf-8")


def row(text: str) -> dict[str, str]:
    """The one row of the table that every model zoo has."""
    lines = text.splitlines()
    at = lines.index("| Model | Input Size | NME | ckpt | log |")
    assert re.fullmatch(r"\|(---\|){5}", lines[at + 1])
    assert not lines[at + 3].startswith("|")
    cells = [cell.strip() for cell in lines[at + 2].strip("|").split(" | ")]
    return dict(zip(["Model", "Input Size", "NME", "ckpt", "log"], cells, strict=True))


def table(text: str, head: str) -> list[list[str]]:
    lines = text.splitlines()
    found = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


# Before the test split was read


def test_the_row_says_model_size_and_a_validation_number_that_is_marked_as_one(sweep, capsys):
    text = make(sweep, capsys)
    found = row(text)
    assert found["Model"] == MODEL
    assert found["Input Size"] == "32x32"
    assert found["NME"] == f"{sweep.best.best_nme * 100:.2f} (val)"
    assert "> **Validation NME.** The test split was not read." in text
    assert "> **Synthetic data.**" in text
    assert "Seed noise was not measured." in text
    assert "In MLflow's registry" not in text


def test_the_linked_files_are_there_and_carry_their_hash(sweep, capsys):
    found = row(make(sweep, capsys))
    folder = sweep.folder / "card"
    links = {key: re.fullmatch(rf"\[{key}\]\((.+)\)", found[key]).group(1) for key in ("ckpt", "log")}
    for key, suffix in (("ckpt", "pt"), ("log", "jsonl")):
        digest = hashlib.sha256((folder / links[key]).read_bytes()).hexdigest()
        assert links[key] == f"{MODEL}-{digest[:8]}.{suffix}"
    assert {path.name for path in folder.iterdir()} == {"README.md", "metafile.yml", *links.values()}
    assert (folder / links["log"]).read_bytes() == (sweep.folder / "trials" / "0000" / "metrics.jsonl").read_bytes()


def test_the_published_weights_are_those_of_the_winner(sweep, capsys):
    text = make(sweep, capsys)
    name = row(text)["ckpt"].partition("(")[2].rstrip(")")
    config, model = load_trained(sweep.folder / "card" / name)
    of_winner, original = load_trained(sweep.folder / "trials" / "0000")
    for mine, theirs in zip(model.state_dict().values(), original.state_dict().values(), strict=True):
        assert np.array_equal(mine.numpy(), theirs.numpy())
    assert config.identity() == of_winner.identity()
    assert f"| config.hash | {of_winner.identity()} |" in text
    assert TrainConfig.from_tree(yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])) == config


def test_the_metafile_is_that_of_a_model_zoo(sweep, capsys):
    name = row(make(sweep, capsys))["ckpt"].partition("(")[2].rstrip(")")
    meta = yaml.safe_load((sweep.folder / "card" / "metafile.yml").read_text())
    (collection,), (model,) = meta["Collections"], meta["Models"]
    assert collection["Name"] == model["In Collection"] == "STAR"
    assert collection["Paper"]["URL"] == "https://arxiv.org/abs/2306.02763"
    assert collection["README"] == "README.md"
    assert model["Name"] == MODEL
    assert model["Metadata"]["Training Data"] == "synthetic faces"
    assert model["Metadata"]["Architecture"] == ["resnet18", "pyramid head", "STAR"]
    assert model["Weights"] == name
    (result,) = model["Results"]
    assert result["Dataset"] == "synthetic faces"
    assert result["Metrics"] == {"NME": round(sweep.best.best_nme * 100, 2), "Split": "val"}


def test_the_search_and_its_budget_are_told(sweep, capsys):
    text = make(sweep, capsys)
    assert "budget used: 4 trials (1 complete, 1 diverged, 2 pruned), 4 epochs" in text
    assert "sampler rank_gp, pruner successive_halving, seed 0; on validation faces only" in text
    assert f"winner: trial 0, lr=0.002 star_weight=1.5, val NME {sweep.best.best_nme * 100:.2f} %" in text
    assert table(text, "| setting | kind | values |") == [
        ["optim.lr", "log_uniform", "0.0001 to 0.1"],
        ["loss.star_weight", "uniform", "0 to 10"],
    ]
    assert "synthetic faces, 98 landmarks (wflw98), 32 px crops" in text
    assert "trained on train, 2 epochs, 8 faces a step" in text


def test_the_same_command_gives_the_same_files(sweep, capsys):
    folder = sweep.folder / "card"
    make(sweep, capsys)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    make(sweep, capsys)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_files_of_an_older_card_do_not_stay(sweep, capsys):
    folder = sweep.folder / "card"
    old = row(make(sweep, capsys))["ckpt"].partition("(")[2].rstrip(")")
    state = checkpoint.load(sweep.folder / "trials" / "0000" / "best.pt")
    state["config"]["loss"] = {"name": "wing"}
    checkpoint.save({k: v for k, v in state.items() if k != "format"}, sweep.folder / "trials" / "0000" / "best.pt")
    text = make(sweep, capsys)
    assert row(text)["Model"] == "resnet18_wing_synthetic_32x32"
    assert not (folder / old).exists()
    assert len(list(folder.iterdir())) == 4


def retell(sweep: SweepResult, changes: dict) -> None:
    """Makes the winner's checkpoint one that was trained with another config."""
    path = sweep.folder / "trials" / "0000" / "best.pt"
    state = checkpoint.load(path)
    state["config"] = TrainConfig.from_tree(state["config"]).replace(changes).tree()
    checkpoint.save({key: value for key, value in state.items() if key != "format"}, path)


def test_nothing_of_this_machine_is_in_what_is_published(sweep, capsys, tmp_path):
    root = tmp_path / "faces of w300"
    changes = {
        "data.kind": "w300",
        "data.root": str(root),
        "data.train_list": str(tmp_path / "lists" / "train.txt"),
        "data.val_list": "val.txt",
        "data.train_faces": None,
        "model.pretrained": str(tmp_path / "weights" / "r18.pt"),
    }
    retell(sweep, changes)
    text = make(sweep, capsys)
    assert "**Synthetic data.**" not in text
    assert "300-W style, 68 landmarks" in text
    assert "> **Validation NME.**" in text
    folder = sweep.folder / "card"
    meta = (folder / "metafile.yml").read_text()
    log = next(folder.glob("*.jsonl")).read_text()
    tree = checkpoint.load(next(folder.glob("*.pt")))["config"]
    for place in (str(tmp_path.parent), str(Path.home()), str(sweep.folder.parent), str(Path(__file__).parents[3])):
        for told in (text, meta, log, json.dumps(tree)):
            assert place not in told
    assert tree["data"]["val_list"] == "val.txt"
    assert tree["data"]["root"] == root.name
    TrainConfig.from_tree(tree)


# After the test split was read


@pytest.fixture
def finished(sweep) -> SweepResult:
    """The sweep with a final network, which is the winner's with another config."""
    folder = sweep.folder / "reruns" / "final-0000-0"
    shutil.copytree(sweep.folder / "trials" / "0000", folder)
    state = checkpoint.load(folder / "best.pt")
    state["config"] = TrainConfig.from_tree(state["config"]).replace({"data.train_on": "train+val"}).tree()
    checkpoint.save({key: value for key, value in state.items() if key != "format"}, folder / "best.pt")
    return note(sweep, read(1), final())


def test_test_faces_that_were_left_out_or_trained_on_stand_beside_the_number(finished, capsys):
    overlap = "3 pictures are in the test split and in what was trained on (3 by name), such as a.jpg"
    told = note(finished, final(skipped="2 (2 x is cut short)", overlap=overlap))
    text = make(told, capsys)
    assert "**Faulty test faces were left out: 2 (2 x is cut short).**" in text
    assert f"**{overlap}: data.allow_overlap.**" in text


def test_the_test_number_replaces_that_of_validation(finished, capsys):
    text = make(finished, capsys)
    assert row(text)["NME"] == "6.71 ± 0.13"
    assert "Validation NME" not in text
    assert "> **Synthetic data.**" in text
    for words in (
        "Test split, 300 faces, 2 networks (seeds 0, 1)",
        "trained on train + val",
        "NME 6.71 % (95 % interval 6.32 to 7.14, bootstrap over faces and seeds; each: 6.61, 6.80)",
        "FR@0.10 12.00 %, AUC@0.10 0.3726",
        "divided by the distance of the outer eye corners (inter_ocular)",
        "The checkpoint is that of the first seed.",
        "trained on train+val, 2 epochs",
        "| data.hash.test | fedcba9876543210 |",
        "| machine | another machine |",
    ):
        assert words in text
    assert "times for this sweep" not in text
    assert table(text, "| subset | faces | NME % | FR@0.10 % | AUC@0.10 |") == [
        ["pose", "45", "11.00", "43.33", "0.1200"],
        ["blur", "72", "6.44", "11.00", "0.4000"],
    ]
    assert table(text, "| part | NME % |") == [["nose", "5.86"], ["right_eye", "5.47"]]
    (result,) = yaml.safe_load((finished.folder / "card" / "metafile.yml").read_text())["Models"][0]["Results"]
    assert result["Metrics"] == {"NME": 6.71}


def test_one_network_has_no_spread(finished, capsys):
    text = make(note(finished, final([0])), capsys)
    assert row(text)["NME"] == "6.71"

    assert re.search(r"1 network \(seeds? 0\)", text)


def test_a_second_reading_of_the_test_split_is_told(finished, capsys):
    text = make(note(finished, read(2), final()), capsys)
    assert "**The test split was read 2 times for this sweep.**" in text


def test_a_reading_without_a_result_is_told_too(sweep, capsys):
    text = make(note(sweep, read(1)), capsys)
    assert "The test split was not read" not in text
    assert row(text)["NME"].endswith("(val)")


def test_seeds_and_repeats_are_told(sweep, capsys):
    seeds = {
        "winner": {"trial": 0, "seeds": [1, 2], "nme": [0.1, 0.11], "mean": 0.105, "std": 0.00707},
        "runner_up": None,
    }
    repeat = {
        "trial": 0,
        "before": 0.1,
        "again": 0.1,
        "identical": True,
        "first_difference": None,
        "epochs": 2,
        "config_hash": "x",
    }
    told = note(
        sweep,
        Event(EventKind.FINDING, None, {"about": "seeds", "metrics": {}, "detail": seeds}),
        Event(EventKind.FINDING, None, {"about": "repeat", "metrics": {}, "detail": repeat}),
    )
    text = make(told, capsys)
    assert "Seeds (validation): trial 0 with 2 other seeds: val NME 10.50% +- 0.71%" in text
    assert "Repeated: trial 0 again: val NME 10.0000%, identical" in text
    assert "not measured" not in text


# What goes wrong


def test_without_a_complete_trial_there_is_nothing_to_publish(tmp_path, capsys):
    sweep = write_sweep(tmp_path, PLANE, [(PARAMS, [0.2], "PRUNED"), (PARAMS, [], "DIVERGED")])
    code, out, err = run_card(sweep, capsys)
    assert (code, out) == (2, "")
    assert "sweep told: no trial is complete, so there is nothing to publish" in err
    assert not (sweep.folder / "card").exists()


def test_an_unknown_sweep_is_refused(sweep, capsys):
    with pytest.raises(SystemExit) as ended:
        card.main(["sold", "--output", str(sweep.folder.parent)])
    assert ended.value.code == 2
    assert "(there: told)" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [None, b"PK\x03\x04 no zip"])
def test_missing_or_damaged_weights_leave_an_older_card_as_it_was(damage, sweep, capsys):
    make(sweep, capsys)
    before = {path.name: path.read_bytes() for path in (sweep.folder / "card").iterdir()}
    path = sweep.folder / "trials" / "0000" / "best.pt"
    path.unlink()
    if damage:
        path.write_bytes(damage)
    code, out, err = run_card(sweep, capsys, "--no-register")
    assert (code, out) == (1, "")
    assert err.startswith(f"CheckpointError: {path}: ")
    assert {path.name: path.read_bytes() for path in (sweep.folder / "card").iterdir()} == before


def test_a_final_network_of_another_trial_than_the_winner_is_told(finished, capsys):
    event = final([0])
    folder = finished.folder / "reruns"
    shutil.copytree(folder / "final-0000-0", folder / "final-0001-0")
    event.data["detail"].update({"trial": 1, "runs": ["final-0001-0"]})
    text = make(note(finished, event), capsys)
    assert "winner: trial 0" in text
    assert "trial 1" in text.partition("## Search")[0]


@pytest.mark.slow
def test_without_mlflow_the_card_is_written_all_the_same(sweep, capsys):
    uri = "http://anna:geheim@127.0.0.1:9"
    code, out, err = run_card(sweep, capsys, "--mlflow_uri", uri)
    assert code == 1
    assert "not registered: MLflow at http://" in err
    assert "the same command tries again" in err
    assert "geheim" not in out + err
    text = (sweep.folder / "card" / "README.md").read_text(encoding="utf-8")
    assert row(text)["Model"] == MODEL
    assert "In MLflow's registry" not in text
    assert (sweep.folder / "card" / "metafile.yml").exists()

"""The form in which a network is computed: what is chosen, what is kept of the speeds, what float16 needs."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trainer import engine, form_speed, forms
from trainer.config import TrainConfig
from trainer.data.batches import training_batches
from trainer.data.crop_cache import load_split
from trainer.engine import optimizer_step, train
from trainer.errors import ConfigError
from trainer.form_speed import resolve, slow_here, speeds_here, speeds_of_gpu
from trainer.forms import Form, FormSpeeds, adopt, allowed, choose, form_of, is_open, recall, remember, slow_warning
from trainer.inference import locate
from trainer.losses import LandmarkLoss
from trainer.run_state import start_run

Tiny = Callable[..., TrainConfig]
F32, F32_LAST, BF16, BF16_LAST = (Form(p, last) for p in ("float32", "bfloat16") for last in (False, True))
OLD = FormSpeeds({F32: 60.0, F32_LAST: 45.0, BF16: 6.0, BF16_LAST: 6.1}, "old")
NEW = FormSpeeds({F32: 70.0, F32_LAST: 72.0, BF16: 100.0, BF16_LAST: 121.0}, "new")
MILD = FormSpeeds({F32: 100.0, F32_LAST: 90.0, BF16: 110.0, BF16_LAST: 120.0}, "mild")
OPEN = {"run.precision": "auto", "run.channels_last": "auto"}


def test_what_is_left_open_is_the_default() -> None:
    assert is_open(TrainConfig())
    assert is_open(TrainConfig().replace({"run.precision": "float32"}))
    assert not is_open(TrainConfig().replace({"run.precision": "float32", "run.channels_last": False}))


@pytest.mark.parametrize(
    ("said", "machines", "chosen"),
    [
        ({}, {"a": OLD}, F32),
        ({}, {"a": NEW}, BF16_LAST),
        ({"run.precision": "bfloat16"}, {"a": OLD}, BF16_LAST),  # what is said is obeyed, the rest is chosen
        ({"run.channels_last": True}, {"a": OLD}, F32_LAST),
        ({"run.precision": "float32", "run.channels_last": True}, {"a": OLD}, F32_LAST),
        ({}, {"a": NEW, "b": MILD}, BF16_LAST),
        ({}, {"a": OLD, "b": MILD}, F32),  # 1.2 times slower than the best on b, where bfloat16 is 10 times on a
        ({"run.precision": "float32"}, {"a": OLD, "b": NEW}, F32_LAST),  # slow on b, but asked for
    ],
)
def test_the_form_that_loses_least_where_it_loses_most_is_chosen(
    said: dict[str, object], machines: dict[str, FormSpeeds], chosen: Form
) -> None:
    config = choose(TrainConfig().replace(said), machines)
    assert form_of(config) == chosen
    assert config.replace(OPEN) == TrainConfig()


def test_machines_that_suit_nothing_together_are_named() -> None:
    with pytest.raises(ConfigError, match=r"is fast on all machines \(a: float32 NCHW; b: bfloat16 NHWC\)"):
        choose(TrainConfig(), {"a": OLD, "b": NEW})


def test_float16_on_a_cpu_is_obeyed_and_told() -> None:
    config = choose(TrainConfig().replace({"run.precision": "float16"}), {"a": OLD})
    assert config.run.precision == "float16"
    assert slow_warning(config, OLD) == (
        "float16 NCHW is made for GPUs; the fastest here is float32 NCHW, which run.precision auto takes"
    )


@pytest.mark.parametrize(
    ("gpu", "chosen"),
    [
        (("P100", 6, 0, False), Form("float32", False)),
        (("V100", 7, 0, False), Form("float16", True)),
        (("T4", 7, 5, False), Form("float16", True)),
        (("A100", 8, 0, True), Form("bfloat16", True)),
        (("H200", 9, 0, True), Form("bfloat16", True)),
    ],
)
def test_a_gpu_computes_in_what_it_has_in_hardware(gpu: tuple[str, int, int, bool], chosen: Form) -> None:
    speeds = speeds_of_gpu(*gpu)
    assert form_of(choose(TrainConfig(), {"gpu": speeds})) == chosen
    assert not speeds.measured
    assert gpu[0] in speeds.source


def test_what_is_open_is_taken_from_an_earlier_config() -> None:
    earlier = choose(TrainConfig(), {"a": NEW})
    assert adopt(TrainConfig(), earlier) == earlier
    said = TrainConfig().replace({"run.precision": "float32"})
    assert form_of(adopt(said, earlier)) == F32_LAST
    assert adopt(earlier.replace({"run.channels_last": False}), earlier).run.channels_last is False


def test_a_slow_form_is_told_with_its_factor() -> None:
    text = slow_warning(TrainConfig().replace({"run.precision": "bfloat16", "run.channels_last": True}), OLD)
    assert text is not None
    assert text.startswith("bfloat16 NHWC is 9.8 times slower here than float32 NCHW")
    assert slow_warning(choose(TrainConfig(), {"a": OLD}), OLD) is None
    assert slow_warning(TrainConfig().replace({"run.precision": "float32", "run.channels_last": True}), MILD) is None


def test_weights_whose_precision_is_emulated_here_are_told(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_speed, "speeds_here", lambda config: OLD)
    on_cpu = {"run.device": "cpu"}
    assert slow_here(tiny(on_cpu)) is None
    text = slow_here(tiny(on_cpu | {"run.precision": "bfloat16"}))
    assert text is not None
    assert text.startswith("bfloat16 NHWC is 9.8 times slower here")


def test_speeds_are_told_the_fastest_first() -> None:
    assert OLD.text().startswith("float32 NCHW ")
    assert OLD.text().endswith(f"images/s ({OLD.source})")
    gpu = speeds_of_gpu("T4", 7, 5, False)
    assert gpu.text() == gpu.source


def test_speeds_are_kept_by_all_that_decides_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainConfig().replace({"data.cache_dir": str(tmp_path), "run.threads": 1})
    assert recall(config) is None
    remember(config, NEW)
    assert recall(config) == NEW
    assert recall(config.replace({"optim.lr": 1e-2, "data.train_faces": 7})) == NEW
    others = {
        "run.threads": 2,
        "data.image_size": 64,
        "optim.batch_size": 6,
        "model.backbone": "resnet18",
        "model.width": 8,
    }
    for key, value in others.items():
        assert recall(config.replace({key: value})) is None, key
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert recall(config) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 1, "rates": [["float32"]]}'])
def test_a_damaged_file_costs_a_measurement(tmp_path: Path, content: str) -> None:
    config = TrainConfig().replace({"data.cache_dir": str(tmp_path), "run.threads": 1})
    remember(config, NEW)
    (path,) = (tmp_path / "forms").iterdir()
    path.write_text(content)
    assert recall(config) is None


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = TrainConfig().replace({"data.cache_dir": str(tmp_path / "file"), "run.threads": 1})
    remember(config, NEW)
    assert recall(config) is None


@pytest.fixture(autouse=True)
def known_speeds() -> None:
    """Here they are measured."""


def test_all_forms_of_this_machine_are_measured_once(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny({**OPEN, "data.cache_dir": str(tmp_path), "run.device": "cpu"})
    monkeypatch.setattr(time, "thread_time", time.perf_counter)  # the machine may be busy with other tests
    speeds = speeds_here(config)
    assert set(speeds.rates) == {F32, F32_LAST, BF16, BF16_LAST}
    assert min(speeds.rates.values()) > 0
    assert speeds.measured
    assert "1 thread, 32 px" in speeds.source
    monkeypatch.setattr(form_speed, "_measure", lambda config: pytest.fail("measured again"))
    assert speeds_here(config) == speeds
    assert form_of(resolve(config)) == min(speeds.rates, key=speeds.factor)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(config.tree())))
    form_speed.main()
    assert FormSpeeds.from_tree(json.loads(capsys.readouterr().out)) == speeds


def test_what_a_busy_machine_gives_is_used_and_not_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny({**OPEN, "data.cache_dir": str(tmp_path), "run.device": "cpu"})
    monkeypatch.setattr(time, "process_time", time.perf_counter)  # threads that wait for each other look busy
    monkeypatch.setattr(time, "thread_time", lambda: time.perf_counter() / 2)
    assert speeds_here(config).source.endswith("on a busy machine")
    assert recall(config) is None
    monkeypatch.setattr(time, "thread_time", time.perf_counter)
    assert speeds_here(config) == recall(config)


@pytest.mark.parametrize("form", [F32, F32_LAST, BF16, BF16_LAST], ids=str)
def test_the_whole_network_computes_in_its_layout(tiny: Tiny, form: Form) -> None:
    run = start_run(tiny({"run.precision": form.precision, "run.channels_last": form.channels_last}))
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    seen: list[bool] = []
    for part in (run.model.backbone.stages[0], run.model.backbone.stages[1]):
        part.register_forward_hook(lambda part, given, output: seen.append(output.is_contiguous(memory_format=layout)))
    split = load_split(run.config.data, "train")
    engine.forward(run, next(iter(training_batches(split, run.config, 1))), LandmarkLoss(run.config.loss))
    locate(run.model.eval(), split.images[:2, :32, :32].copy(), run.config)
    assert len(seen) >= 4
    assert all(seen)


def test_measuring_changes_neither_the_random_numbers_nor_the_network(tiny: Tiny, tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    speeds_here(tiny({"data.cache_dir": str(tmp_path), "run.device": "cpu"}))
    assert torch.equal(torch.rand(4), expected)


def test_a_run_writes_down_the_form_that_was_chosen(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_speed, "speeds_here", lambda config: OLD)
    config = tiny({**OPEN, "optim.epochs": 1, "run.device": "cpu"})
    train(config)
    written = TrainConfig.load(Path(str(config.run.output)) / "config.yaml")
    assert form_of(written) == F32
    assert written.identity() == config.replace({"run.precision": "float32", "run.channels_last": False}).identity()


def test_float16_trains_and_goes_on_bit_for_bit(tiny: Tiny, tmp_path: Path) -> None:
    changes = {"run.precision": "float16", "run.device": "cpu", "optim.clip_norm": 1.0, "run.checkpoint_seconds": 0.0}
    whole = train(tiny(changes | {"run.output": str(tmp_path / "whole")}))
    assert whole.best_nme < 1
    folder = tmp_path / "cut"

    def stop(result: engine.EpochResult) -> None:
        raise KeyboardInterrupt

    config = tiny(changes | {"run.output": str(folder)})
    with pytest.raises(KeyboardInterrupt):
        train(config, report=stop)
    rest = train(config, resume_from=folder / "last.pt")
    assert (rest.best_nme, rest.epochs) == (whole.best_nme, whole.epochs)
    saved = torch.load(folder / "last.pt", weights_only=True)
    assert saved["scaler"]["_growth_tracker"] > 0


def test_a_step_whose_scaled_gradient_overflows_is_left_out(tiny: Tiny) -> None:
    run = start_run(tiny({"run.precision": "float16", "run.device": "cpu"}))
    before = [parameter.clone() for parameter in run.model.parameters()]
    scale = run.scaler.get_scale()
    for parameter in run.model.parameters():
        parameter.grad = torch.full_like(parameter, float("inf"))
    run.scaler.scale(torch.zeros(1))  # as backward does
    optimizer_step(run, 1e-3)
    assert all(torch.equal(old, new) for old, new in zip(before, run.model.parameters(), strict=True))
    assert run.scaler.get_scale() == scale / 2


def test_other_precisions_have_no_scaler_in_their_checkpoints(tiny: Tiny) -> None:
    run = start_run(tiny({"run.device": "cpu"}))
    assert "scaler" not in run.state_dict()
    assert allowed(run.config) == [Form("float32", True)]
    assert forms.SLOW == 1.5

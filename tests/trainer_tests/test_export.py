"""The exported file computes what the network does, says where it comes from, and never appears half or wrong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from trainer import checkpoint, export, onnx_export, run_folder
from trainer.config import TrainConfig
from trainer.coords import to_normalised, to_pixels
from trainer.heatmap import spatial_moments
from trainer.inference import load_trained, predict
from trainer.model import build_model
from trainer.synthetic import draw_face

SIZE = 64
BASE = {
    "data.image_size": SIZE,
    "data.box_scale": 1.3,
    "model.backbone": "resnet18",
    "model.width": 8,
    "run.threads": 1,
    "run.precision": "bfloat16",  # auto: on CPUs that have units for it only
}
HEADS = {
    "pyramid": {"model.head": "pyramid"},
    "deconv": {"model.head": "deconv", "model.deconv_layers": 2},
    "regression": {"model.head": "regression", "loss.name": "wing", "model.width": 128},  # the default: has none
}


def faces(count: int, first: int = 50) -> Tensor:
    """(count, 3, S, S) uint8 RGB; other faces than those that the export checks itself with."""
    images = [draw_face(1, first + i, size=SIZE).image[..., ::-1] for i in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def save_run(folder: Path, head: str) -> Path:
    """A run folder with the best.pt of a network that tells faces apart: running statistics seen, strong last layer."""
    config = TrainConfig().replace({**BASE, **HEADS[head]})
    model = build_model(config).train()
    pictures = faces(4)
    with torch.no_grad():
        for _ in range(20):
            model(pictures)
        last = model.head.linear if head == "regression" else model.head.maps
        last.weight.mul_(100 if head == "regression" else 10)
    folder.mkdir(parents=True)
    checkpoint.save({"config": config.tree(), "model": model.state_dict()}, folder / run_folder.BEST)
    return folder


class Exported(NamedTuple):
    """A file that the command wrote, what it said, and the network that the file came from."""

    file: Path
    out: str
    err: str
    config: TrainConfig
    model: nn.Module
    session: onnxruntime.InferenceSession

    def outputs(self, pictures: Tensor) -> list[np.ndarray[Any, Any]]:
        found: list[np.ndarray[Any, Any]] = self.session.run(None, {"pictures": pictures.numpy()})
        return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Run folders by head, each made once."""
    folder = tmp_path_factory.mktemp("runs")
    yield lambda head: folder / head if (folder / head).exists() else save_run(folder / head, head)
    shutil.rmtree(folder)  # checkpoints and files of a ResNet-18 are 45 MB each


@pytest.fixture(scope="module", params=["pyramid", "pyramid, no flip test", "deconv", "regression"])
def exported(request: pytest.FixtureRequest, runs: Callable[[str], Path]) -> Exported:
    head, _, plain = request.param.partition(", ")
    run, file, options = runs(head), runs(head) / "best.onnx", []
    if plain:
        file = run / "new" / "plain.onnx"
        options = ["--out", str(file), "--run.flip_test", "false"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert export.main([str(run), "--format", "onnx", *options]) == 0
    flip = "false" if plain else "true"
    config, model = load_trained(run, {"run.precision": "float32", "run.device": "cpu", "run.flip_test": flip})
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return Exported(file, out.getvalue(), err.getvalue(), config, model, session)


def checkpoint_of(exported: Exported) -> Path:
    folder = exported.file.parent
    return (folder if exported.config.run.flip_test else folder.parent) / "best.pt"


@pytest.fixture
def pyramid(runs: Callable[[str], Path]) -> Path:
    return runs("pyramid")


# --- the file


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_file_gives_the_landmarks_of_the_network(exported: Exported, count: int) -> None:
    pictures = faces(count, first=count)
    landmarks = exported.outputs(pictures)[0]
    with torch.inference_mode():
        expected = predict(exported.model, pictures, exported.config)
    assert landmarks.shape == (count, 98, 2)
    assert landmarks.dtype == np.float32
    np.testing.assert_allclose(to_normalised(landmarks, SIZE), expected.numpy(), atol=1e-4)
    np.testing.assert_allclose(landmarks, to_pixels(expected, SIZE).numpy(), atol=1e-4 * SIZE / 2)


def test_the_network_of_these_tests_tells_faces_apart(exported: Exported) -> None:
    """Otherwise agreement to 1e-4 would prove nothing."""
    landmarks = to_normalised(exported.outputs(faces(4))[0], SIZE)
    assert landmarks.std(0).mean() > 0.01
    assert landmarks.std(1).mean() > 0.01


def test_heatmaps_give_covariances_in_square_pixels(exported: Exported) -> None:
    pictures = faces(3)
    outputs = exported.outputs(pictures)
    if exported.config.model.head == "regression":
        assert len(outputs) == 1
        return
    with torch.inference_mode():
        m = spatial_moments(exported.model(pictures))
    expected = torch.stack([torch.stack([m.xx, m.xy], -1), torch.stack([m.xy, m.yy], -1)], -2)
    assert outputs[1].shape == (3, 98, 2, 2)
    assert np.abs(outputs[1][..., 0, 1]).max() > 1
    np.testing.assert_allclose(outputs[1], expected.numpy() * ((SIZE - 1) / 2) ** 2, atol=0.01)


def test_the_mirrored_picture_is_averaged_in_where_the_config_says_so(exported: Exported) -> None:
    """A mirrored picture then gives exactly the mirrored landmarks."""
    pictures, flip = faces(2), exported.config.data.landmarks.flip
    straight, mirrored = (exported.outputs(p.contiguous())[0] for p in (pictures, pictures.flip(-1)))
    back = mirrored[:, flip] * [-1, 1] + [SIZE - 1, 0]
    assert (np.abs(back - straight).max() < 0.01) == exported.config.run.flip_test


def test_names_kinds_and_sizes_are_in_the_file(exported: Exported) -> None:
    graph = onnx.load(exported.file).graph
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }
    expected = {"pictures": ["N", 3, SIZE, SIZE], "landmarks": ["N", 98, 2], "covariance": ["N", 98, 2, 2]}
    if exported.config.model.head == "regression":
        del expected["covariance"]
    assert shapes == expected
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {o.type.tensor_type.elem_type for o in graph.output} == {onnx.TensorProto.FLOAT}


def test_the_file_says_where_it_comes_from(exported: Exported) -> None:
    model = onnx.load(exported.file)
    assert {p.key: p.value for p in model.metadata_props} == {
        "layout": "wflw98",
        "image_size": "64",
        "box_scale": "1.3",
        "flip_test": str(exported.config.run.flip_test).lower(),
        "checkpoint_sha256": hashlib.sha256(checkpoint_of(exported).read_bytes()).hexdigest(),
    }
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


def test_the_file_is_whole_and_tells_nothing_of_this_machine(exported: Exported) -> None:
    onnx.checker.check_model(onnx.load(exported.file, load_external_data=False), full_check=True)
    assert str(Path(export.__file__).parent).encode() not in exported.file.read_bytes()
    weights = sum(p.nbytes for p in exported.model.parameters())
    assert weights * 0.95 < exported.file.stat().st_size < weights * 1.05


def test_pictures_of_another_size_or_kind_are_refused(exported: Exported) -> None:
    for wrong in (faces(1)[..., :32], faces(1).float()):
        with pytest.raises(Exception, match="INVALID_ARGUMENT"):
            exported.outputs(wrong.contiguous())


# --- the command


def test_the_command_says_one_line(exported: Exported) -> None:
    """The fixture also tells that the file lies beside the checkpoint, or where it was asked for."""
    assert exported.err == ""
    path, size, opset, difference = exported.out.rstrip("\n").split("  ")
    assert (path, opset) == (str(exported.file), "opset 18")
    assert size == f"{exported.file.stat().st_size / 1e6:.1f} MB"
    assert difference.startswith("largest difference ")
    assert float(difference.split()[2]) <= 1e-4
    assert list(exported.file.parent.glob(".*")) == []


def test_a_file_that_differs_is_removed_and_the_old_one_stays(
    pyramid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnx_export, "_TOLERANCE", 0.0)
    out = tmp_path / "new" / "face.onnx"
    out.parent.mkdir()
    out.write_bytes(b"the old one")
    (out.parent / ".face.onnx.1234").write_bytes(b"left by a killed process")
    assert export.main([str(pyramid), "--out", str(out)]) == 1
    said, message = capfd.readouterr()
    assert said == ""
    assert len(message.splitlines()) == 1
    assert message.startswith("ExportError: the ONNX file differs from the network by ")
    assert 0 < float(message.split(" by ")[1].split()[0]) < 1e-4
    assert [p.name for p in out.parent.iterdir()] == ["face.onnx"]
    assert out.read_bytes() == b"the old one"


def test_the_check_sees_other_weights_and_no_numbers(exported: Exported) -> None:
    parameter = next(exported.model.head.parameters())
    before = parameter.detach().clone()
    assert onnx_export.check(exported.file, exported.model, exported.config) <= 1e-4
    try:
        for change, told in ((1.01, "differs from the network by "), (float("nan"), "by nan ")):
            with torch.no_grad():
                parameter.mul_(change)
            with pytest.raises(onnx_export.ExportError, match=told):
                onnx_export.check(exported.file, exported.model, exported.config)
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def test_the_check_sees_a_forgotten_flip_test(exported: Exported) -> None:
    other = exported.config.replace({"run.flip_test": not exported.config.run.flip_test})
    with pytest.raises(onnx_export.ExportError, match="differs from the network"):
        onnx_export.check(exported.file, exported.model, other)


def test_the_check_tells_what_onnxruntime_cannot_run(exported: Exported, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.write_bytes(exported.file.read_bytes()[:1000])
    with pytest.raises(onnx_export.ExportError, match="onnxruntime cannot run the file"):
        onnx_export.check(half, exported.model, exported.config)


def test_a_checkpoint_measured_in_bfloat16_is_exported_in_float32(exported: Exported) -> None:
    measured = load_trained(checkpoint_of(exported))[0]
    assert measured.run.precision == "bfloat16"
    with pytest.raises(onnx_export.ExportError, match="differs from the network"):
        onnx_export.check(exported.file, exported.model, exported.config.replace({"run.precision": "bfloat16"}))


@pytest.mark.parametrize(
    ("content", "told"), [(b"half a checkpoint", "damaged"), (None, "no such checkpoint")], ids=["damaged", "missing"]
)
def test_a_bad_checkpoint_is_told_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, told: str
) -> None:
    if content:
        (tmp_path / "best.pt").write_bytes(content)
    assert export.main([str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"CheckpointError: {tmp_path / 'best.pt'}: {told}")
    assert not (tmp_path / "best.onnx").exists()


def test_an_unwritable_place_fails_before_the_work(
    pyramid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert export.main([str(pyramid), "--out", str(tmp_path / "file" / "face.onnx")]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "file") in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "{run}/best.pt"], "must be a file whose name ends in .onnx"),
        (["--out", ""], "must be a file whose name ends in .onnx"),
        (["--out", "{folder}"], "must be a file whose name ends in .onnx"),
        (["--format", "tflite"], "invalid choice: 'tflite'"),
        (["--run.flip", "true"], "nearest valid key: run.flip_test"),
        (["--run.flip_test", "maybe"], "run.flip_test = 'maybe'"),
        (["--run.precision", "bfloat16"], "run.precision = 'bfloat16': the file is made on the CPU, in float32"),
        (["--run.device", "cuda"], "run.device = 'cuda'"),
    ],
)
def test_bad_input(
    pyramid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    before = (pyramid / "best.pt").stat().st_mtime_ns
    with pytest.raises(SystemExit) as ended:
        export.main([str(pyramid), *(a.format(run=pyramid, folder=folder) for a in arguments)])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert named in message
    assert len(message.splitlines()) == 1
    assert (pyramid / "best.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_told_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # Python's own way to say that there is none
    with pytest.raises(SystemExit) as ended:
        export.main([str(tmp_path)])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert f"the package {package} is missing" in message
    assert "pip install -e '.[onnx]'" in message


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, trainer.export as e\ntry: e.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'onnx', 'onnxruntime', 'onnxscript', 'cv2'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--run.flip_test" in done.stdout
    assert "float32" in done.stdout

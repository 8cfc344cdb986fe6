import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from exportloss.cli import main
from exportloss.cli.arguments import ExportSettings
from exportloss.cli.weights import load_detector
from exportloss.errors import ArtifactError
from exportloss.models import yolov5
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.shapes import SHAPE_NAMES


def random_detector(num_classes, seed=5, **options):
    torch.manual_seed(seed)
    return yolov5("yolov5n", num_classes, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of weights, good and bad."""
    folder = tmp_path_factory.mktemp("weights")
    state = random_detector(3).state_dict()
    save_file(state, folder / "three.safetensors")
    torch.save(random_detector(3).half().state_dict(), folder / "half.pt")
    torch.save({"model": random_detector(3)}, folder / "whole.pt")
    torch.save({"epoch": 1}, folder / "numbers.pt")
    torch.save({"layer.weight": torch.zeros(1)}, folder / "other.pt")
    (folder / "text.pt").write_text("hello")
    (folder / "text.safetensors").write_text("hello")
    return folder


@pytest.fixture(scope="module")
def exported(files, shapes, tmp_path_factory):
    """Both formats at once, from a file for another number of classes, partly frozen."""
    output = tmp_path_factory.mktemp("out") / "both"
    hyp = output.parent / "hyp.yaml"
    hyp.write_text("box: 0.1\nlr0: 0.02\n")
    arguments = (
        *("--weights", files / "three.safetensors", "--model", "n", "--data", shapes),
        *("--img", 64, 96, "--batch", 2, "--max-targets", 16, "--optimizer", "AdamW"),
        *("--freeze", 10, "--hyp", hyp, "--format", "loss,ort", "--output", output),
    )
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *values, **_: lines.append(" ".join(values)))
        assert main(["export", *map(str, arguments)]) == 0
    return output, "\n".join(lines)


def test_both_formats_are_what_was_asked_for(exported):
    output, _ = exported
    for name, kind in (("ort", "ort-training"), ("loss", "loss")):
        manifest = Manifest.read(output / name)
        manifest.verify_files(output / name)
        assert manifest.kind == kind
        assert manifest.names == SHAPE_NAMES
        assert manifest.image_size == (64, 96)
        assert (manifest.batch_size, manifest.max_targets) == (2, 16)
        assert manifest.loss.box == 0.1
    manifest = Manifest.read(output / "ort")
    assert manifest.optimizer == "adamw"
    layers = {int(name.split(".")[1]) for name in manifest.groups.all}
    assert (min(layers), max(layers)) == (10, 24)


def test_the_artifacts_hold_the_files_weights(exported):
    output, _ = exported
    tensors = TrainSession.open(output / "ort", threads=1).state().model
    state = random_detector(3).state_dict()
    for name in ("model.0.conv.weight", "model.23.cv3.bn.running_var", "model.20.cv1.bn.bias"):
        np.testing.assert_array_equal(tensors[name], state[name].numpy())
    assert tensors["model.24.m.0.weight"].shape == (27, 64, 1, 1)  # 3 x (5 + 4)


def test_what_was_written_is_printed(exported):
    output, text = exported
    manifest = Manifest.read(output / "ort")
    model = random_detector(4)
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(model.get_parameter(name).numel() for name in manifest.groups.all)
    assert f"{total:,} parameters, {total - trained:,} of them frozen, adamw" in text
    assert "the head starts anew, for 4 classes instead of 3" in text
    for name in manifest.files:
        assert re.search(rf"^  {re.escape(name)} +[\d,.]+ kB$", text, re.MULTILINE)
    assert text.splitlines()[-1].startswith(f"next: exportloss train --weights {output / 'ort'} ")


def test_an_export_is_not_overwritten_unasked(exported, capsys):
    output, _ = exported
    before = (output / "ort" / "manifest.json").read_bytes()
    arguments = ["--weights", "yolov5n", "--nc", "4", "--output"]
    assert main(["export", *arguments, str(output / "ort")]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["export", *arguments, str(output), "--format", "ort,loss"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert (output / "ort" / "manifest.json").read_bytes() == before


def load(weights, **options):
    return load_detector(ExportSettings(weights=str(weights), **options))


def test_a_size_gets_random_weights_by_seed():
    zero, again, one = (load("yolov5n", num_classes=2, seed=seed).model for seed in (0, 0, 1))
    name = "model.0.conv.weight"
    assert torch.equal(zero.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(zero.state_dict()[name], one.state_dict()[name])


def test_a_file_says_its_classes(files):
    model = load(files / "three.safetensors", model="yolov5n").model
    assert model.num_classes == 3
    for name, tensor in random_detector(3).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_half_precision_is_widened(files):
    model = load(files / "half.pt", model="yolov5n").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = random_detector(3).state_dict()["model.9.cv1.conv.weight"]
    torch.testing.assert_close(
        model.state_dict()["model.9.cv1.conv.weight"], expected.half().float(), rtol=0, atol=0
    )


def test_a_files_anchors_are_taken(tmp_path):
    anchors = [[10, 10, 20, 20], [30, 30, 40, 40], [50, 50, 60, 60]]  # two a level
    model = random_detector(3, anchors=anchors)
    save_file(model.state_dict(), tmp_path / "two.safetensors")
    loaded = load(tmp_path / "two.safetensors", model="yolov5n", num_classes=5).model
    assert loaded.num_classes == 5
    torch.testing.assert_close(loaded.anchors_px, model.anchors_px)


def test_a_saved_training_state_is_a_file_of_weights(ort_artifact, tmp_path):
    session = TrainSession.open(ort_artifact, threads=1)
    session.save(tmp_path / "last.safetensors")
    detector = load(tmp_path / "last.safetensors", model="yolov5n")
    assert "it has no anchors: YOLOv5's own are used" in detector.about
    state = detector.model.state_dict()
    for name, tensor in session.state().model.items():
        np.testing.assert_array_equal(state[name].numpy(), tensor)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.pt", "gone.pt: no such file"),
        ("whole.pt", "holds Python objects, such as a whole YOLOv5 model"),
        ("numbers.pt", "is no state dict; expected tensors by name"),
        ("other.pt", "no YOLOv5 detector: .* got layer.weight"),
        ("text.pt", "not readable as weights"),
        ("text.safetensors", "not readable as weights"),
    ],
)
def test_what_is_no_file_of_weights(files, name, message):
    with pytest.raises(ArtifactError, match=message):
        load(files / name, model="yolov5n")


def test_a_file_of_another_size_or_with_a_gap(files, tmp_path):
    with pytest.raises(ArtifactError, match=r"does not fit yolov5s: model\.0\.\S+ has \(16,"):
        load(files / "three.safetensors", model="yolov5s")
    state = random_detector(3).state_dict()
    del state["model.9.cv1.conv.weight"]
    save_file(state, tmp_path / "gap.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.9\.cv1\.conv\.weight has nothing there"):
        load(tmp_path / "gap.safetensors", model="yolov5n")


@pytest.fixture
def words(files, shapes, tmp_path, monkeypatch):
    """What the capitals below stand for, in a folder that holds one file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    return {"FILE": str(files / "three.safetensors"), "DATA": str(shapes)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--weights yolov5n", "how many classes? say --data data.yaml, or --nc 80"),
        ("--weights yolov5q --nc 4", "no model 'yolov5q'; choose one of yolov5n"),
        ("--weights FILE", "say --model yolov5n"),
        ("--weights yolov5n --nc 0", "--nc is 0"),
        ("--weights yolov5n --data DATA --nc 3", "--nc is 3 but DATA names 4 classes"),
        ("--weights yolov5n --data gone.yaml", "gone.yaml: no such file"),
        ("--weights yolov5n --nc 4 --hyp gone.yaml", "gone.yaml: not readable"),
        ("--weights yolov5n --nc 4 --imgsz 100", "to be multiples of 32"),
        ("--weights yolov5n --nc 4 --imgsz 64 64 64", "--imgsz got 3 numbers"),
        ("--weights yolov5n --nc 4 --imgsz 0", "image size is 0"),
        ("--weights yolov5n --nc 4 --batch-size 0", "batch size is 0"),
        ("--weights yolov5n --nc 4 --max-targets 0", "max targets is 0"),
        ("--weights yolov5n --nc 4 --freeze 99", "freeze got 99"),
        ("--weights yolov5n --nc 4 --freeze 25", "leaves no parameter of yolov5n to train"),
        ("--weights yolov5n --nc 4 --output .", "is no artifacts folder"),
    ],
)
def test_what_is_wrong_is_said(words, tmp_path, capsys, arguments, message):
    assert main(["export", *(words.get(word, word) for word in arguments.split())]) == 2
    assert message.replace("DATA", words["DATA"]) in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nc", "4"], "required: --weights"),
        (["--weights", "n", "--format", "ort,tflite"], "no format 'tflite'; choose from"),
        (["--weights", "n", "--optimizer", "lion"], "invalid choice: 'lion'"),
    ],
)
def test_wrong_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["export", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "onnx", "onnx_ir", "onnxscript"])
def test_a_missing_package_is_named(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "--weights", "yolov5n", "--nc", "4"]) == 2
    error = capsys.readouterr().err
    assert package in error
    assert "install exportloss[export]" in error

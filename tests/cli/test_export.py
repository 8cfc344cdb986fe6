import argparse
import re
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file

from exportloss.cli import main
from exportloss.cli.arguments import ExportSettings
from exportloss.cli.export.command import add_parser
from exportloss.cli.export.formats import FILES, FOLDERS
from exportloss.cli.export.unused_options import USED_BY
from exportloss.cli.export.weights import load_detector
from exportloss.demo.dataset import SHAPE_NAMES
from exportloss.errors import ArtifactError, ConfigError
from exportloss.models import yolov5
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.sessions.installation import how_to_install
from tests.support.messages import error_of, mentions, missing
from tests.support.yolov5_files import save_checkpoint


def random_detector(num_classes, seed=5, **options):
    torch.manual_seed(seed)
    return yolov5("yolov5n", num_classes, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of weights, good and bad."""
    folder = tmp_path_factory.mktemp("weights")
    state = random_detector(3).state_dict()
    save_file(state, folder / "three.safetensors")
    save_checkpoint(folder / "best.pt", random_detector(3), names=["red", "green", "blue"])
    return folder


@pytest.fixture(scope="module")
def exported(files, shapes, tmp_path_factory):
    """Both formats at once, from a file for another number of classes, partly frozen."""
    output = tmp_path_factory.mktemp("out") / "both"
    hyp = output.parent / "hyp.yaml"
    hyp.write_text("box: 0.1\nlr0: 0.02\n")
    arguments = (
        *("--weights", files / "three.safetensors", "--data", shapes),
        *("--img", 64, 96, "--batch", 2, "--max-targets", 16, "--optimizer", "AdamW"),
        *("--freeze", 10, "--hyp", hyp, "--format", "loss,ort", "--gradients", "--ema"),
        *("--tiers", "4,8"),
        *("--for", "cpu"),
        *("--output", output),
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
    loss = Manifest.read(output / "loss")
    assert loss.gradients
    assert loss.provider == "cpu"
    assert loss.tiers == (4, 8) and "loss-4.onnx" in loss.files
    manifest = Manifest.read(output / "ort")
    assert manifest.optimizer == "adamw"
    layers = {int(name.split(".")[1]) for name in manifest.averaged}
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
    assert not missing(text, f"{total:,} parameters", f"{total - trained:,}", "adamw")
    assert not missing(text, 285, 291, "three.safetensors")
    assert not missing(next(line for line in text.splitlines() if "the head" in line), 4, 3)
    for name in manifest.files:
        assert re.search(rf"^  {re.escape(name)} +[\d,.]+ kB$", text, re.MULTILINE)
    assert f"exportloss train --weights {output / 'ort'} " in text.splitlines()[-1]


def test_an_export_is_not_overwritten_unasked(exported, capsys):
    output, _ = exported
    before = (output / "ort" / "manifest.json").read_bytes()
    arguments = ["--weights", "yolov5n", "--nc", "4", "--output"]
    assert main(["export", *arguments, str(output / "ort")]) == 2
    assert not missing(capsys.readouterr().err, output / "ort", "exists")
    assert main(["export", *arguments, str(output), "--format", "ort,loss"]) == 2
    assert not missing(capsys.readouterr().err, output, "exists")
    assert (output / "ort" / "manifest.json").read_bytes() == before


def load(weights, **options):
    return load_detector(ExportSettings(weights=str(weights), **options))


def test_a_size_gets_random_weights_by_seed():
    zero, again, one = (load("yolov5n", num_classes=2, seed=seed).model for seed in (0, 0, 1))
    name = "model.0.conv.weight"
    assert torch.equal(zero.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(zero.state_dict()[name], one.state_dict()[name])


def test_a_file_says_its_size_and_classes(files):
    detector = load(files / "best.pt")
    assert detector.model.name == "yolov5n"
    assert detector.names == ("red", "green", "blue")
    state = random_detector(3).half().float().state_dict()
    for name, tensor in detector.model.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)


def test_its_names_are_not_those_of_other_classes(files):
    assert load(files / "best.pt", num_classes=3, names=("a", "b", "c")).names == ("a", "b", "c")
    assert load(files / "best.pt", num_classes=2).names == ("0", "1")
    assert load(files / "three.safetensors").names == ("0", "1", "2")


def test_a_saved_training_state_is_a_file_of_weights(ort_artifact, tmp_path):
    session = TrainSession.open(ort_artifact, threads=1)
    session.save(tmp_path / "last.safetensors")
    detector = load(tmp_path / "last.safetensors")
    assert "a training state" in detector.about
    state = detector.model.state_dict()
    for name, tensor in session.state().model.items():
        np.testing.assert_array_equal(state[name].numpy(), tensor)


def test_a_damaged_training_state_is_noticed(ort_artifact, tmp_path):
    path = tmp_path / "last.safetensors"
    TrainSession.open(ort_artifact, threads=1).save(path)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=mentions(path, "sha256")):
        load(path)


def test_the_size_can_be_insisted_on(files):
    assert load(files / "best.pt", model="n").model.name == "yolov5n"
    with pytest.raises(ConfigError, match=mentions("yolov5s", files / "best.pt", "yolov5n")):
        load(files / "best.pt", model="yolov5s")


@pytest.fixture(scope="module")
def written(files, tmp_path_factory):
    """The formats that are files, from a checkpoint that knows its classes."""
    output = tmp_path_factory.mktemp("out") / "files"
    arguments = ("--weights", files / "best.pt", "--img", 64, "--output", output)
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *values, **_: lines.append(" ".join(values)))
        formats = ("--format", "pt,safetensors,onnx", "--nms", "--conf-thres", 0, "--max-det", 5)
        assert main(["export", *map(str, (*arguments, *formats))]) == 0
    return output, "\n".join(lines)


def test_files_are_named_after_the_weights(written):
    output, text = written
    assert sorted(path.name for path in output.iterdir()) == [
        *("best.onnx", "best.pt", "best.safetensors")
    ]
    for path in output.iterdir():
        assert f"\n{path} (" in text


def test_state_dicts_go_back(written, files):
    output, _ = written
    for name in ("best.pt", "best.safetensors"):
        detector = load(output / name)
        expected = load(files / "best.pt").model.state_dict()
        for key, tensor in detector.model.state_dict().items():
            assert torch.equal(tensor, expected[key]), key
    assert load(output / "best.safetensors").names == ("red", "green", "blue")


def test_the_inference_model_runs(written):
    output, _ = written
    session = onnxruntime.InferenceSession(output / "best.onnx")
    images = np.random.default_rng(0).random((2, 3, 64, 64), np.float32)
    (detections,) = session.run(["detections"], {"images": images})
    assert detections.shape == (10, 7)
    np.testing.assert_array_equal(detections[:, 0], [0] * 5 + [1] * 5)
    names = session.get_modelmeta().custom_metadata_map["names"]
    assert names == "{0: 'red', 1: 'green', 2: 'blue'}"


def test_files_are_not_overwritten_unasked(written, files, ort_artifact, tmp_path, capsys):
    output, _ = written
    before = {path.name: path.read_bytes() for path in output.iterdir()}

    def refused(weights, folder, *options):
        arguments = ("--weights", weights, "--output", folder, "--format", "pt", *options)
        assert main(["export", *map(str, arguments)]) == 2
        return error_of(capsys.readouterr().err)

    best = output / "best.pt"
    assert not missing(refused(files / "best.pt", output), best, "exists")
    assert not missing(refused(best, output, "--exist-ok"), best, "--weights")
    told = refused(files / "best.pt", ort_artifact, "--exist-ok")
    assert not missing(told, ort_artifact, "artifacts folder")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.fixture
def words(files, shapes, tmp_path, monkeypatch):
    """What the capitals below stand for, in a folder that holds one file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    return {"FILE": str(files / "three.safetensors"), "DATA": str(shapes)}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--weights yolov5n", ("classes", "--data", "--nc")),
        ("--weights yolov5q --nc 4", ("'yolov5q'", "yolov5n", "yolov5x6")),
        ("--weights FILE --model s", ("three.safetensors", "yolov5n")),
        ("--weights gone.pt", ("gone.pt: ", "no such file")),
        ("--weights artifcats --nc 4", ("artifcats: ", "no such file or folder")),
        ("--weights yolov5n.pt --nc 4", ("yolov5n.pt: ", "ultralytics/yolov5/releases")),
        ("--weights FILE --format onnx --conf-thres 0.3", ("--conf-thres", "--nms")),
        ("--weights FILE --format onnx --nms --conf-thres 3", ("conf_thres", 3.0, "[0, 1]")),
        ("--weights FILE --nms", ("--nms", "--format onnx", "--format step")),
        ("--weights yolov5n --nc 0", ("nc", 0, 1)),
        ("--weights yolov5n --data DATA --nc 3", ("nc", "DATA", 3, 4)),
        ("--weights yolov5n --data gone.yaml", ("gone.yaml: ", "no such file")),
        ("--weights yolov5n --nc 4 --hyp gone.yaml", ("gone.yaml: ", "no such file")),
        ("--weights yolov5n --nc 4 --imgsz 64 64 64", ("imgsz", 3)),
        ("--weights yolov5n --nc 4 --batch-size -1", ("batch-size", -1)),
        ("--weights yolov5n --nc 4 --imgsz 0", ("imgsz", 0, 1)),
        ("--weights yolov5n --nc 4 --batch-size 0", ("batch size", 0, 1)),
        ("--weights yolov5n --nc 4 --max-targets 0", ("max targets", 0, 1)),
        ("--weights yolov5n --nc 4 --freeze 99", ("freeze", 99, "0..25")),
        ("--weights yolov5n --nc 4 --update biases", ("biases", "no such file", "last-K")),
        ("--weights yolov5n --nc 4 --update last-26", ("last-26", "last-25")),
        ("--weights yolov5n --nc 4 --memory 0", ("--memory", 0, "above 0")),
        ("--weights yolov5n --nc 4 --memory 9 --format ort", ("--memory", "--format ort")),
        ("--weights FILE --format onnx --update bias", ("--update", "ort", "--format onnx")),
        ("--weights FILE --format ort --features", ("--features", "step", "--format ort")),
        ("--weights yolov5n --nc 4 --freeze 25", ("freeze", 25, "yolov5n", "no parameter")),
        *(
            (f"--weights yolov5n --nc 4 {given}", (flag, "--format loss", "--format step"))
            for given, flag in (
                ("--gradients", "--gradients"),
                ("--layout permuted", "--layout"),
                ("--tiers none", "--tiers"),
            )
        ),
        ("--weights yolov5n --nc 4 --for gpu --format ort", ("--for gpu", "--format ort")),
        ("--weights yolov5n --nc 4 --for openvino --format loss", ("--for openvino", "step")),
        (
            "--weights yolov5n --nc 4 --format loss --tiers 32,64",
            ("tiers", (32, 64), "max_targets"),
        ),
        ("--weights yolov5n --nc 4 --ema --format loss", ("--ema", "ort", "step", "--format loss")),
        ("--weights FILE --format onnx --batch-size 8", ("--batch-size", "ONNX", "--format onnx")),
        ("--weights FILE --format pt,onnx --max-targets 8", ("--max-targets", "--format pt,onnx")),
        ("--weights FILE --format onnx --hyp file", ("--hyp", "ort", "step", "--format onnx")),
        (
            "--weights FILE --format onnx --label-smoothing 0",
            ("--label-smoothing", "--format onnx"),
        ),
        ("--weights FILE --format pt --no-scale-gains", ("--scale-gains", "--format pt")),
        ("--weights FILE --format loss --optimizer sgd", ("--optimizer", "ort", "--format loss")),
        ("--weights FILE --format loss,onnx --freeze 10", ("--freeze", "--format loss,onnx")),
        ("--weights FILE --format loss --no-ema", ("--ema", "ort", "step", "--format loss")),
        ("--weights FILE --format loss --head dense", ("--head", "ort", "step", "--format loss")),
        (
            "--weights FILE --format ort --precision float16",
            ("--precision", "step", "--format ort"),
        ),
        ("--weights yolov5n --nc 4 --output .", (". ", "artifacts folder", "exists")),
    ],
)
def test_what_is_wrong_is_said(words, tmp_path, capsys, arguments, told):
    assert main(["export", *(words.get(word, word) for word in arguments.split())]) == 2
    error = error_of(capsys.readouterr().err)
    assert not missing(error, *(words.get(one, one) for one in told))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--weights", "n", "--format", "ort,tflite"], ("--format", "'tflite'", "ort")),
        (["--weights", "n", "--tiers", "32,few"], ("--tiers", "'32,few'")),
        (["--weights", "n", "--optimizer", "lion"], ("--optimizer", "'lion'", "sgd")),
    ],
)
def test_wrong_usage(capsys, arguments, told):
    with pytest.raises(SystemExit) as caught:
        main(["export", *arguments])
    assert caught.value.code == 2
    assert not missing(error_of(capsys.readouterr().err), *told)


@pytest.mark.parametrize("package", ["torch", "onnx", "onnx_ir", "onnxscript"])
def test_a_missing_package_is_named(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "--weights", "yolov5n", "--nc", "4"]) == 2
    error = capsys.readouterr().err
    assert package in error
    assert how_to_install("export") in error


def test_every_option_of_an_export_has_its_formats():
    """What a format uses is in one table, whose names are those of the command and its formats."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    options = parser.parse_args(["export", "--weights", "yolov5n"])
    assert vars(options).keys() >= USED_BY.keys()
    assert {name for formats in USED_BY.values() for name in formats} <= {*FOLDERS, *FILES}


def test_an_image_size_without_effect_is_told(files, tmp_path, capsys):
    weights = ("--weights", str(files / "three.safetensors"), "--imgsz", "64")
    assert main(["export", *weights, "--format", "pt", "--output", str(tmp_path)]) == 0
    assert not missing(capsys.readouterr().out, "--imgsz", "--format pt")

"""A device that computes something else than the CPU is refused before it does any work."""

from __future__ import annotations

import numpy as np
import pytest

from exportloss import DeviceError
from exportloss.cli import main
from exportloss.cli.train import command as train_command
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.runtime import LossSession, TrainSession
from exportloss.runtime.evaluation import inference as detectors
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.sessions import loss_session, portable_step
from exportloss.runtime.sessions.checks.self_check import check_training
from exportloss.runtime.sessions.devices import Device
from exportloss.runtime.sessions.step_results import StepResult
from tests.support import tiny_detector as tiny
from tests.support.messages import mentions
from tests.support.pretended_gpu import CUDA, PretendedGpu

RATE = 1e-3


@pytest.fixture
def gpu(monkeypatch):
    """Make an onnxruntime with a GPU whose results are larger than they should be by a share."""

    def pretend(lie: float) -> PretendedGpu:
        pretended = PretendedGpu(version="1.30.0", nodes={CUDA: 5000}, lie=lie)
        for module in (portable_step, loss_session, detectors, train_command):
            monkeypatch.setattr(module, "import_engine", lambda device: pretended)
        return pretended

    return pretend


def batch(seed):
    return tuple(tensor.numpy() for tensor in tiny.make_batch(seed))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_honest_device_trains_from_where_the_folder_left_off(gpu, tmp_path, optimizer):
    folder = export(export_train_step, tmp_path / "step", optimizer=optimizer)
    gpu(0.0)
    opened, plain = TrainSession.open(folder, device="cuda"), TrainSession.open(folder, threads=1)
    assert (opened.updates, opened.skipped) == (0, 0)
    for name, tensor in plain.state().model.items():
        np.testing.assert_array_equal(opened.state().model[name], tensor, err_msg=name)
    one, other = (session.step(*batch(0), lr=RATE) for session in (opened, plain))
    assert one.loss == pytest.approx(other.loss, rel=1e-6)


def test_a_lying_device_does_not_train(gpu, tiny_artifact):
    gpu(1e-3)
    with pytest.raises(DeviceError) as caught:
        TrainSession.open(tiny_artifact, device="cuda:1")
    figures = ("loss 1.0e-03", "1e-05")
    for part in ("cuda:1", f"{CUDA} of onnxruntime 1.30.0", *figures):
        assert part in str(caught.value)
    TrainSession.open(tiny_artifact, device="cuda:1", self_check=False)
    TrainSession.open(tiny_artifact, threads=1)


def test_what_is_no_number_is_a_difference(gpu, tiny_artifact):
    gpu(float("nan"))
    with pytest.raises(DeviceError, match=mentions("cuda", "loss nan")):
        TrainSession.open(tiny_artifact, device="cuda")


def test_the_command_writes_nothing(gpu, tiny_artifact, tiny_shapes, tmp_path, capsys):
    gpu(1e-3)
    options = ["--data", str(tiny_shapes), "--project", str(tmp_path / "runs"), "--epochs", "1"]
    for weights in ([str(tiny_artifact)], ["yolov5n", "--imgsz", "64"]):
        assert main(["train", "--weights", *weights, *options, "--device", "cuda"]) == 2
        assert "training step" in capsys.readouterr().err
        assert not list(tmp_path.rglob("runs/*"))


def test_a_lying_device_gives_no_loss(gpu, small_losses):
    folder = small_losses["permuted"]
    inputs = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for name, shape in LossSession.open(folder).input_shapes.items()
    }
    targets = [[0, 0, 0.5, 0.5, 0.2, 0.2]]
    expected = LossSession.open(folder, threads=1).compute(inputs, targets).loss
    gpu(1e-3)
    with pytest.raises(DeviceError, match=mentions("cuda", "a loss", "gradient_0 1.0e-03")):
        LossSession.open(folder, device="cuda").compute(inputs, targets)
    lie = LossSession.open(folder, device="cuda", self_check=False).compute(inputs, targets).loss
    assert lie == pytest.approx(1.001 * expected, rel=1e-5)
    gpu(0.0)
    session = LossSession.open(folder, device="cuda")
    assert session.compute(inputs, targets).loss == pytest.approx(expected, rel=1e-6)


def test_a_lying_device_finds_nothing(gpu, tiny_artifact, tmp_path):
    path = tmp_path / "detector.onnx"
    TrainSession.open(tiny_artifact, threads=1).export_inference(path)
    gpu(1e-3)
    with pytest.raises(DeviceError, match=mentions("cuda", "a detection", "output0 1.0e-03")):
        Detector.open(path, device="cuda")
    assert Detector.open(path, device="cuda", self_check=False).image_size is not None
    gpu(0.0)
    assert Detector.open(path, device="cuda").image_size is not None


def test_training_artifacts_are_compared_too(tmp_path, monkeypatch):
    folder = export(export_training_artifacts, tmp_path / "ort", optimizer="sgd")
    one, other = (TrainSession.open(folder, threads=1) for _ in range(2))
    cuda, bfloat16 = map(Device.parse, ("cuda", "openvino:bf16"))
    check_training(one, other, device=cuda)
    step = one.step
    monkeypatch.setattr(one, "step", lambda *batch, lr, **more: step(*batch, lr=1.1 * lr, **more))
    with pytest.raises(DeviceError, match=mentions("onnxruntime 1.19.2", "update 1.0e-01")):
        check_training(one, other, device=cuda)
    # Rounding to bfloat16 changes updates more than this, and the loss less.
    check_training(one, other, device=bfloat16)

    def off(*batch, **more):
        result = step(*batch, **more)
        return StepResult(loss=1.03 * result.loss, items=result.items, skipped=result.skipped)

    monkeypatch.setattr(one, "step", off)
    with pytest.raises(DeviceError, match=mentions("openvino:bf16", "loss 3.0e-02", "2e-02")):
        check_training(one, other, device=bfloat16)


def export(function, folder, **options):
    sizes = {"image_size": (tiny.IMAGE, tiny.IMAGE), "batch_size": 2, "max_targets": 8}
    function(tiny.make_detector(), tiny.make_loss(), folder, **sizes, **options)
    return folder

"""OpenVINO trains, evaluates and detects as ONNX Runtime's CPU provider does."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from exportloss import DeviceError, InstallationError
from exportloss.cli import main
from exportloss.runtime import LossSession, TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.sessions import openvino_engine
from exportloss.runtime.training import trainer
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from tests.device.engines.steps import (
    CASES,
    assert_golden,
    bounds,
    differences_by_step,
    golden_steps,
    relative_l2,
)

pytest.importorskip("openvino", reason="OpenVINO is not installed", exc_type=ImportError)

OPENVINO = {"device": "openvino", "threads": 1}


@pytest.mark.parametrize("case", CASES)
def test_steps_from_the_same_states(device, batches, expected, case):
    folder = device / case
    session = TrainSession.open(folder, **OPENVINO)
    assert session.engine.startswith("OpenVINO 2026.4")
    for found in differences_by_step(session, folder, batches, expected["settings"]):
        for name, bound in bounds(case).items():
            assert found[name] <= bound, name


@pytest.mark.parametrize("case", ["sgd", "adamw"])
def test_steps_of_eager_torch(device, batches, expected, case):
    """Loss and parameters are those of eager torch, each step from its state."""
    session = TrainSession.open(device / case, **OPENVINO, self_check=False)
    states = device / f"{case}-expected"
    for step, batch in enumerate(batches):
        if step:
            session.resume(states / f"eager-{step - 1}.safetensors")
        loss = session.step(*batch, **expected["settings"]).loss
        most = bounds(case)
        assert loss == pytest.approx(expected["losses"][case]["eager"][step], rel=most["loss"])
        got, want = session.state(), load_state(states / f"eager-{step}.safetensors")
        names = session.manifest.groups.all
        off = relative_l2([got.model[n] for n in names], [want.model[n] for n in names])
        assert off <= most["parameters"]


def test_a_run_of_its_own(device, batches, expected, tmp_path):
    """The state stays where it is from step to step, and is saved and resumed as ever."""
    one, cpu = (TrainSession.open(device / "sgd", **where) for where in (OPENVINO, {"threads": 1}))
    for batch in batches:
        results = [session.step(*batch, **expected["settings"]) for session in (one, cpu)]
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-4)
    assert one.updates == cpu.updates == len(batches)
    one.save(tmp_path / "state.safetensors")
    resumed = TrainSession.open(device / "sgd", **OPENVINO).resume(tmp_path / "state.safetensors")
    losses = [session.step(*batches[0], **expected["settings"]).loss for session in (one, resumed)]
    assert losses[0] == losses[1]


def test_what_is_not_finite_is_skipped(device, batches):
    session = TrainSession.open(device / "sgd", **OPENVINO)
    good, broken = session.state(), session.state()
    name = session.manifest.groups.weights[0]
    broken.model[name][:] = 1e30  # whose squares overflow
    session.load_state(broken)
    assert session.step(*batches[0], lr=1e-3).skipped
    for tensor_name, tensor in session.state().model.items():
        np.testing.assert_array_equal(tensor, broken.model[tensor_name], err_msg=tensor_name)
    session.load_state(good)
    assert not session.step(*batches[0], lr=1e-3).skipped


@pytest.mark.parametrize("ema", [False, True])
def test_evaluation(device, batches, ema):
    sessions = [TrainSession.open(device / "adamw", **where) for where in (OPENVINO, {})]
    found, expected = (session.evaluate(*batches[0], ema=ema) for session in sessions)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert relative_l2([found.predictions], [expected.predictions]) <= 1e-6


@pytest.mark.parametrize("rows", [0, 4, 12])
def test_loss_alone(device, batches, rows):
    session = LossSession.open(device / "loss", **OPENVINO)
    expected = load_file(device / "loss-expected.safetensors")
    inputs = {name: expected[name] for name in session.input_shapes}
    for _ in range(2):
        result = session.compute(inputs, batches[0][1][:rows])
    assert result.loss == pytest.approx(expected[f"{rows}/loss"].item(), rel=1e-6)
    for name, value in result.gradients.items():
        assert relative_l2([value.numpy()], [expected[f"{rows}/{name}"]]) <= 1e-6, name


def test_golden_values_of_the_form_for_gpus(device):
    """Of background alone OpenVINO rounds the loss as log(1 + x) does; its gradient is right."""
    for folder, name, expected in golden_steps(device):
        session = LossSession.open(folder, **OPENVINO, self_check=False)
        loss_rtol = 1e-2 if folder.name == "trained_background" else 1e-5
        rows = expected["targets"]
        inputs = {key: expected[key] for key in session.input_shapes}
        result = session.compute(inputs, rows, balance=expected["balance"])
        found = {output: value.numpy() for output, value in result.gradients.items()}
        items = np.array(list(result.items.values()))
        assert_golden(
            {"loss": np.array(result.loss), "items": items, **found},
            expected,
            name,
            loss_rtol=loss_rtol,
        )


def test_detectors(device, tmp_path):
    TrainSession.open(device / "sgd").export_inference(tmp_path / "detector.onnx")
    for path in (device / "bright.onnx", tmp_path / "detector.onnx"):
        found, expected = (Detector.open(path, **where) for where in (OPENVINO, {}))
        assert (found.names, found.stride) == (expected.names, expected.stride)
        assert (found.batch_size, found.image_size) == (expected.batch_size, expected.image_size)
        size = (found.batch_size or 3, 3, *(found.image_size or (64, 96)))
        images = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
        assert relative_l2([found.predict(images)], [expected.predict(images)]) <= 1e-6


@pytest.fixture
def faulty(monkeypatch):
    """Make OpenVINO give a loss that is too large by half."""
    run = openvino_engine._Session.run_with_iobinding

    def run_wrongly(session, binding, options=None):
        run(session, binding, options)
        session.wait()
        if (loss := binding.bound.get("loss")) is not None:
            loss.update_inplace(1.5 * loss.numpy())

    monkeypatch.setattr(openvino_engine._Session, "run_with_iobinding", run_wrongly)


def test_an_engine_that_computes_wrongly_is_refused(device, batches, faulty):
    folder = device / "sgd"
    right = TrainSession.open(folder, threads=1).step(*batches[0], lr=1e-3).loss
    with pytest.raises(DeviceError) as caught:
        TrainSession.open(folder, **OPENVINO)
    for part in ("openvino:CPU", "OpenVINO 2026.4", "loss"):
        assert part in str(caught.value)
    wrong = TrainSession.open(folder, **OPENVINO, self_check=False).step(*batches[0], lr=1e-3)
    assert not wrong.skipped
    assert wrong.loss == pytest.approx(1.5 * right, rel=1e-4)


def test_a_processor_that_is_not_there(device):
    with pytest.raises(InstallationError, match=r"(?s)(?=.*openvino:CPU)(?=.*GPU\.7)"):
        TrainSession.open(device / "sgd", device="openvino:GPU.7")


def bfloat16_is_here() -> bool:
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.skipif(not bfloat16_is_here(), reason="this processor has no bfloat16")
def test_bfloat16_has_other_numbers(device, batches, expected):
    session = TrainSession.open(device / "small-sgd", device="openvino:bf16", threads=1)
    assert session.engine.endswith("in bfloat16")
    size = session.manifest.image_size[0]
    small = [(batches[0][0][..., :size, :size].copy(), batches[0][1])]
    folder = device / "small-sgd"
    (found,) = differences_by_step(session, folder, small, expected["settings"])
    assert 1e-5 < found["loss"] < 1e-2
    assert 1e-2 < found["momentum"] < 1  # half of a gradient is rounding


@pytest.mark.skipif(not bfloat16_is_here(), reason="this processor has no bfloat16")
def test_gross_errors_in_bfloat16_are_refused(device, faulty):
    with pytest.raises(DeviceError, match=r"openvino:bf16 \(OpenVINO .* in bfloat16\).*loss"):
        TrainSession.open(device / "small-sgd", device="openvino:bf16", threads=1)


@pytest.mark.skipif(bfloat16_is_here(), reason="this processor has bfloat16")
def test_bfloat16_that_is_not_there(device):
    with pytest.raises(InstallationError, match=r"openvino:bf16.*avx512_bf16.*'openvino'"):
        TrainSession.open(device / "sgd", device="openvino:bf16", threads=1)


def test_a_run_that_was_interrupted_resumes_to_the_same_bits(device, data, tmp_path, monkeypatch):
    options = ["train", "--weights", str(device / "anchor-free"), "--data", str(data)]
    options += ["--epochs", "3", "--overflow", "keep-largest", "--device", "openvino"]
    options += ["--threads", "1", "--noplots", "--project", str(tmp_path)]
    assert main([*options, "--name", "whole"]) == 0
    real, calls = trainer.write_results, []

    def interrupt(*written: object) -> None:
        calls.append(written)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*written)

    monkeypatch.setattr(trainer, "write_results", interrupt)
    assert main([*options, "--name", "cut"]) == 130
    monkeypatch.undo()
    assert main(["train", "--resume", str(tmp_path / "cut"), "--no-self-check"]) == 0
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    assert read_results(cut.results) == read_results(whole.results)
    one, two = load_state(whole.last), load_state(cut.last)
    assert one.updates == two.updates > 0
    for name, tensor in one.model.items():
        np.testing.assert_array_equal(tensor, two.model[name], err_msg=name)
    # What it trained detects in OpenVINO and in ONNX Runtime.
    val = ["val", "--weights", str(whole.best_onnx), "--data", str(data), "--project"]
    for where in ("openvino", "cpu"):
        assert main([*val, str(tmp_path / where), "--device", where]) == 0


def test_the_commands(device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = ["--source", str(device / "spots" / "images" / "val"), "--imgsz", "64"]
    weights = ["--weights", str(device / "bright.onnx"), "--device", "openvino"]
    assert main(["detect", *weights, *source]) == 0

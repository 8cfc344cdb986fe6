"""A step in half precision: what stays float32, and that it trains as the float32 step does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from exportloss import ConfigError, YoloLoss
from exportloss.cli import main
from exportloss.export import export_train_step
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.export.verify.verify import verify
from exportloss.models import yolov5
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.manifest import Manifest
from tests.support import tiny_detector as tiny
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.graphs.portable_loss import open_session
from tests.support.messages import error_of, mentions, missing

HALVES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
SIZES = {"image_size": (tiny.IMAGE, tiny.IMAGE), "batch_size": 2, "max_targets": 8}
STEPS, RATE = 20, 2e-3
SETTINGS = {
    "learning_rates": torch.full((3,), RATE),
    "momentum": torch.tensor(0.937),
    "weight_decay": torch.tensor(5e-4),
    "max_norm": torch.tensor(torch.inf),
    "update": torch.tensor(True),
}


def batch(seed: int):
    return tuple(tensor.numpy() for tensor in tiny.make_batch(seed))


def make_step(precision: str) -> Step:
    detector = prepare(tiny.make_detector(), tiny.make_loss(), **SIZES)
    return Step(detector, "sgd", ema=False, precision=precision)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A portable step of each precision."""
    base = tmp_path_factory.mktemp("export")
    for precision in ("float32", *HALVES):
        export_train_step(
            tiny.make_detector(), tiny.make_loss(), base / precision, precision=precision, **SIZES
        )
    return {path.name: path for path in base.iterdir()}


@pytest.fixture(scope="module")
def losses(folders) -> list[float]:
    return train(TrainSession.open(folders["float32"], threads=1))


def train(session: TrainSession) -> list[float]:
    return [session.step(*batch(seed % 4), lr=RATE).loss for seed in range(STEPS)]


@pytest.mark.parametrize("precision", HALVES)
class TestTypes:
    @pytest.fixture
    def model(self, folders, precision) -> ir.Model:
        return ir.load(folders[precision] / "train_step.onnx")

    def test_the_graph_is_valid_and_stays_on_gpus(self, folders, precision, model):
        path = folders[precision] / "train_step.onnx"
        onnx.checker.check_model(onnx.load(path), full_check=True)
        assert_runs_on_gpus(model)

    def test_what_enters_and_leaves_is_float32(self, precision, model):
        values = [*model.graph.inputs, *model.graph.outputs]
        types = {value.dtype for value in values} - {ir.DataType.UINT8, ir.DataType.BOOL}
        assert types == {ir.DataType.FLOAT}

    def test_convolutions_are_in_half(self, precision, model):
        convolutions = [node for node in model.graph if node.op_type == "Conv"]
        assert len(convolutions) > 8
        for node in convolutions:
            assert {value.dtype for value in node.inputs} == {HALVES[precision]}, node.name

    def test_loss_norms_and_optimizer_are_an_island_of_float32(self, precision, model):
        """No value in half enters or leaves their nodes, but through casts at the border."""
        norms = tuple(
            name
            for name, module in tiny.make_detector().named_modules()
            if isinstance(module, nn.BatchNorm2d)
        )
        seen = dict.fromkeys(("loss", "optimizer", *norms), 0)
        for node in model.graph:
            scope = (node.name or "").rpartition("/")[0].removesuffix("/backward")
            if scope in seen and node.op_type != "Cast":
                seen[scope] += 1
                values = [value for value in (*node.inputs, *node.outputs) if value is not None]
                assert HALVES[precision] not in {value.dtype for value in values}, node.name
        assert all(seen.values()), seen

    def test_evaluation_is_the_one_of_float32(self, folders, precision, model):
        graphs = [folders[name] / "eval_step.onnx" for name in (precision, "float32")]
        one, other = (ir.load(path).graph for path in graphs)
        assert [node.op_type for node in one] == [node.op_type for node in other]
        assert HALVES[precision] not in {v.dtype for node in one for v in node.outputs}


def test_a_head_within_the_loss_is_float32_too():
    """Where the head is evaluated where the loss looks, its gradients are scattered sums."""
    model = yolov5("yolov5n", 3)
    loss = YoloLoss(model.anchors_px, model.strides, 3)
    # The step alone: an export would trace the detector three times more.
    step = Step(prepare(model, loss, head="sparse", **SIZES), "sgd", precision="float16")
    graph = to_onnx(step.train, step.train_example(), modules=step.modules, name="train_step")
    nodes = list(graph.graph)
    scattered = [node for node in nodes if node.op_type == "ScatterElements"]
    of_loss = [n for n in nodes if (n.name or "").startswith("loss/") and n.op_type != "Cast"]
    assert scattered and of_loss
    for node in (*scattered, *of_loss):
        assert ir.DataType.FLOAT16 not in {value.dtype for value in node.outputs}, node.name


def test_float16_follows_float32(folders, losses):
    found = train(TrainSession.open(folders["float16"], threads=1))
    np.testing.assert_allclose(found, losses, rtol=0.01)
    assert losses[-1] < 0.9 * losses[0]
    assert found != losses


@pytest.mark.parametrize("precision", HALVES)
def test_in_torch_it_follows_float32(losses, precision):
    """The function that is traced; of bfloat16, torch alone has kernels on the CPU."""
    step = make_step(precision)
    state, found = step.state, []
    for seed in range(STEPS):
        images, targets = tiny.make_batch(seed % 4)
        inputs = {**step.train_example(), **SETTINGS, **state, "images": images}
        results = step.train({**inputs, "targets": targets})
        state = {name: results[f"new_{name}"] for name in state}
        found.append(results["loss"].item())
    np.testing.assert_allclose(found, losses, rtol=0.01)


def test_bfloat16_is_written_as_float32_is(folders):
    """With every half type in its graph made float32, a step gives what the float32 step gives."""
    expected_model, proto = (
        onnx.load(folders[name] / "train_step.onnx") for name in ("float32", "bfloat16")
    )
    for node in proto.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == onnx.TensorProto.BFLOAT16:
                attribute.i = onnx.TensorProto.FLOAT
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.BFLOAT16:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    del proto.graph.value_info[:]
    proto.opset_import[0].version, proto.ir_version = 21, 10
    images, targets = tiny.make_batch(0)
    inputs = {
        **make_step("float32").train_example(),
        **SETTINGS,
        "images": images,
        "targets": targets,
    }
    feed = {name: tensor.numpy() for name, tensor in inputs.items()}
    names = ["loss", "new_parameters", "new_optimizer_momentum", "new_statistics"]
    expected, found = (
        open_session(ir.from_proto(model)).run(names, feed) for model in (expected_model, proto)
    )
    for name, one, other in zip(names, found, expected, strict=True):
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert error < 2e-5, name


def test_a_step_that_overflows_changes_nothing(folders):
    session = TrainSession.open(folders["float16"], threads=1)
    before = session.state()
    assert session.step(*batch(0), lr=RATE, loss_scale=1e9).skipped
    after = session.state()
    assert after.updates == 0
    for name, tensor in before.model.items():
        np.testing.assert_array_equal(after.model[name], tensor, err_msg=name)
    assert not session.step(*batch(0), lr=RATE).skipped


def test_the_loss_scale_cancels(folders):
    def gradient(scale: float) -> np.ndarray:
        session = TrainSession.open(folders["float16"], threads=1)
        session.step(*batch(0), lr=0.0, momentum=0.0, weight_decay=0.0, loss_scale=scale)
        memory = session.state().optimizer["momentum"]
        return np.concatenate([tensor.ravel() for tensor in memory.values()])

    one, other = gradient(512.0), gradient(2048.0)
    assert np.linalg.norm(one - other) < 1e-2 * np.linalg.norm(one)


def test_what_cannot_be(folders, tmp_path, capsys):
    assert Manifest.read(folders["bfloat16"]).precision == "bfloat16"
    with pytest.raises(ConfigError, match=mentions("bfloat16", "CPU")):
        TrainSession.open(folders["bfloat16"])
    with pytest.raises(ConfigError, match=mentions("float16", "TensorRT")):
        TrainSession.open(folders["float16"], device="tensorrt")
    with pytest.raises(ConfigError, match=mentions("float16", "float32")):
        verify(folders["float16"], model=tiny.make_detector())
    for scale in (0.0, float("nan")):
        with pytest.raises(ConfigError, match=mentions("loss_scale", scale)):
            TrainSession.open(folders["float16"]).step(*batch(0), lr=RATE, loss_scale=scale)
    command = ["export", "--weights", "yolov5n", "--nc", "2", "--precision", "float16"]
    assert main([*command, "--format", "ort", "--output", str(tmp_path / "out")]) == 2
    told = error_of(capsys.readouterr().err)
    assert not missing(told, "--precision", "--format step", "--format ort")
    assert not (tmp_path / "out").exists()

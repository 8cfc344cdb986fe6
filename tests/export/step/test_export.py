"""The folder that `export_train_step` writes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exportloss import ArtifactError, YoloLoss
from exportloss.export.step.export import export_train_step
from exportloss.models import freeze, yolov5
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import load_state
from tests.support.graphs.on_gpu import assert_detects_on_gpus, assert_runs_on_gpus
from tests.support.manifests import read_values
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss

FREEZE = 10


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """YOLOv5n with a frozen backbone, whose statistics are no longer those of a new layer."""
    torch.manual_seed(0)
    model = yolov5("yolov5n", 2)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(torch.rand(4, 3, 128, 128))
    for norm in norms:
        norm.momentum = 0.03
    loss = YoloLoss(model.anchors_px, model.strides, 2)
    folder = tmp_path_factory.mktemp("step") / "artifact"
    export_train_step(
        model,
        loss,
        folder,
        image_size=(64, 64),
        batch_size=2,
        max_targets=8,
        optimizer="adamw",
        freeze=FREEZE,
        names=["round", "square"],
    )
    return model, folder


def flat(folder: Path) -> dict[str, np.ndarray]:
    """The state of the graph, put together from the files alone, as a device does it."""
    layout, state = Manifest.read(folder).layout, load_state(folder / "state.safetensors")
    vectors = {
        kind: np.concatenate([state.model[name].ravel() for name in getattr(layout, kind).names])
        for kind in ("parameters", "statistics")
    }
    zeros = np.zeros_like(vectors["parameters"])
    return vectors | {
        "balance": state.balance,
        "updates": np.asarray(state.updates, np.float32),
        "gradients": zeros,
        **{f"optimizer_{kept}": zeros for kept in layout.optimizer_state},
    }


def run(folder: Path, name: str, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(
        str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    needed = {value.name: feed[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, needed), strict=True))


def batch() -> dict[str, np.ndarray]:
    images, targets = make_batch(0)
    targets[:, 1] %= 2
    return {"images": images.numpy(), "targets": targets.numpy()}


def test_manifest_describes_the_folder(frozen):
    model, folder = frozen
    manifest = Manifest.read(folder)
    manifest.verify_files(folder)
    assert manifest.kind == "train-step"
    assert manifest.names == ("round", "square")
    assert set(manifest.files) == {
        "train_step.onnx",
        "apply_step.onnx",
        "eval_step.onnx",
        "inference.onnx",
        "state.safetensors",
    }
    layout = read_values(folder)["layout"]
    assert layout["memories"] == ["exp_avg", "exp_avg_sq"]
    tensors = model.state_dict()
    for kind in ("parameters", "statistics"):
        offset = 0
        for entry in layout[kind]:
            assert entry["offset"] == offset
            assert list(tensors[entry["name"]].shape) == entry["shape"]
            offset += math.prod(entry["shape"])
        assert flat(folder)[kind].shape == (offset,)
    names = [entry["name"] for entry in layout["parameters"]]
    assert names == list(manifest.groups.all)


def test_state_holds_the_models_tensors(frozen):
    model, folder = frozen
    state = load_state(folder / "state.safetensors").model
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if "num_batches" not in name and "anchors" not in name
    }
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(state[name], tensor.numpy(), err_msg=name)


def test_graphs_run_on_gpus(frozen):
    _, folder = frozen
    for name in ("train_step", "apply_step", "eval_step"):
        assert_runs_on_gpus(folder / f"{name}.onnx")
    assert_detects_on_gpus(folder / "inference.onnx")


def test_frozen_layers_are_folded_constants(frozen):
    _, folder = frozen
    manifest = Manifest.read(folder)
    assert not [name for name in manifest.groups.all if int(name.split(".")[1]) < FREEZE]
    graph = ir.load(folder / "train_step.onnx").graph
    backbone = [node for node in graph if node.name.startswith("model.9.cv2.bn/")]
    assert [node.op_type for node in backbone] == ["Conv"]
    layers = {f"model.{index}" for index in range(FREEZE)}
    backward = {node.name.partition("/backward")[0] for node in graph if "/backward" in node.name}
    assert "model.10.conv" in backward
    assert not {".".join(name.split(".")[:2]) for name in backward} & layers


def test_step_and_evaluation_agree_with_torch(frozen):
    model, folder = frozen
    loss = YoloLoss(model.anchors_px, model.strides, 2)
    feed = flat(folder) | batch()
    images, targets = torch.tensor(feed["images"]).float() / 255, torch.tensor(feed["targets"])
    evaluated = run(folder, "eval_step", feed)
    with torch.no_grad():
        levels = model.eval()(images)
    np.testing.assert_allclose(evaluated["loss"], loss(levels, targets)[0], rtol=1e-5)
    np.testing.assert_allclose(evaluated["output0"], model.decode(levels), rtol=1e-4, atol=1e-3)
    detected = run(folder, "inference", feed | {"images": images.numpy()})
    # Its convolutions are the plain ones: nobody needs the same bits on any number of threads.
    np.testing.assert_allclose(detected["output0"], evaluated["output0"], rtol=1e-4, atol=1e-3)

    settings = {
        "learning_rates": np.zeros(3, np.float32),
        "momentum": np.asarray(0.9, np.float32),
        "weight_decay": np.asarray(0, np.float32),
        "max_norm": np.asarray(np.inf, np.float32),
        "update": np.asarray(False),
    }
    trained = run(folder, "train_step", feed | settings)
    eager = yolov5("yolov5n", 2)
    eager.load_state_dict(model.state_dict())
    freeze(eager.train(), FREEZE)
    value, items = loss(eager(images), targets)
    value.backward()
    np.testing.assert_allclose(trained["loss"], value.detach(), rtol=1e-5)
    np.testing.assert_allclose(trained["items"], items, rtol=1e-5)
    tensors = dict(eager.named_parameters())
    gradient = torch.cat([tensors[n].grad.ravel() for n in Manifest.read(folder).groups.all])
    error = np.linalg.norm(trained["new_gradients"] - gradient.numpy())
    assert error <= 1e-4 * np.linalg.norm(gradient.numpy())


def test_model_without_decode_and_the_users_model_are_taken(tmp_path: Path):
    model = make_detector().eval()
    export_train_step(
        model,
        make_loss(),
        tmp_path / "own",
        image_size=(IMAGE, IMAGE),
        batch_size=2,
        max_targets=8,
    )
    assert not model.training
    assert set(run(tmp_path / "own", "eval_step", flat(tmp_path / "own") | batch())) == {
        "loss",
        "items",
    }
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "own", "exist_ok")):
        export_train_step(
            model,
            make_loss(),
            tmp_path / "own",
            image_size=(IMAGE, IMAGE),
            batch_size=2,
            max_targets=8,
        )

"""What an export writes: structure of the graphs, refusals, and damaged folders."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exportloss import ArtifactError, ConfigError, ExportError, YoloLoss
from exportloss.export import export_loss, export_training_artifacts
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.artifact.folder import new_folder
from exportloss.runtime.storage.files import new_file
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions

# Every operator that the graphs may use. A new one is a decision: can every runtime that is
# promised run it, and does ONNX Runtime have its gradient?
FORWARD_OPERATORS = frozenset(
    """Add And BatchNormalization Cast Clip Concat Conv Div Equal Exp Expand Floor Gather
    Greater GreaterOrEqual Identity Less LessOrEqual Log Max MaxPool Min Mul Neg Optional
    OptionalGetElement Or Pow Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape
    ScatterElements Sigmoid Slice Split Sqrt Squeeze Sub Transpose Unsqueeze Where""".split()
)
GRADIENT_OPERATORS = frozenset(
    """BatchNormInternal BatchNormalizationGrad ConcatTraining ConvGrad DivGrad GatherGrad
    InPlaceAccumulatorV2 QuickGelu QuickGeluGrad ReluGrad Scale SigmoidGrad SliceGrad
    SplitTraining""".split()
)
# Written by the gradient builder beside its own operators.
GRADIENT_STANDARD = frozenset("MaxPoolGrad Shape Size Sum".split())
DYNAMIC = frozenset("NonZero If Loop Scan Unique Compress RandomUniform Atan".split())

ANCHORS = (((10, 13), (16, 30)), ((30, 61), (62, 45)))
STRIDES = (8, 16)


def operators(model: onnx.ModelProto, domain: str = "") -> set[str]:
    return {node.op_type for node in model.graph.node if node.domain in (domain, "ai.onnx")}


def assert_static(model: onnx.ModelProto, *, every_value: bool) -> None:
    """No dimension is a name, and (where the operators' shapes are known) none is missing."""
    graph = model.graph
    shapes = {
        value.name: value.type.tensor_type.shape.dim
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.HasField("tensor_type")
    }
    for name, dims in shapes.items():
        assert all(dim.HasField("dim_value") for dim in dims), name
    if every_value:
        optional = {v.name for v in graph.value_info if v.type.HasField("optional_type")}
        made = {name for node in graph.node for name in node.output if name}
        assert made <= set(shapes) | optional


def test_training_graph_structure(ort_artifact):
    training = onnx.load(ort_artifact / "training_model.onnx")
    assert operators(training) <= FORWARD_OPERATORS | GRADIENT_STANDARD
    assert operators(training, "com.microsoft") <= (
        FORWARD_OPERATORS | GRADIENT_STANDARD | GRADIENT_OPERATORS
    )
    assert {node.domain for node in training.graph.node} <= {"", "com.microsoft"}
    assert_static(training, every_value=False)

    evaluation = onnx.load(ort_artifact / "eval_model.onnx")
    assert operators(evaluation) <= FORWARD_OPERATORS
    assert not operators(evaluation) & DYNAMIC
    assert_static(evaluation, every_value=True)


def test_every_parameter_has_a_gradient_and_every_statistic_is_kept(ort_artifact):
    manifest = Manifest.read(ort_artifact)
    model = onnx.load(ort_artifact / "training_model.onnx")
    outputs = {value.name for value in model.graph.output}
    inputs = {value.name for value in model.graph.input}
    assert len(manifest.groups.all) == 177
    assert len(manifest.statistics) == 57
    for name in manifest.groups.all:
        assert f"{name}_grad.accumulation.out" in outputs and name in inputs
    for norm in manifest.statistics:
        assert norm.mean in inputs and norm.var in inputs
    assert "output0" not in outputs  # decoding is left to the evaluation


def test_loss_sizes_are_checked(tmp_path):
    loss = YoloLoss(ANCHORS, STRIDES, 3)
    with pytest.raises(ExportError, match=mentions((30, 64), "multiples of 16")):
        export_loss(loss, tmp_path / "l", image_size=(30, 64), batch_size=2, max_targets=5)
    with pytest.raises(ExportError, match=mentions("max_targets", 0)):
        export_loss(loss, tmp_path / "l", image_size=(32, 64), batch_size=2, max_targets=0)
    sizes = {"image_size": (32, 64), "batch_size": 2, "max_targets": 5}
    with pytest.raises(ExportError, match=mentions("names", 1, 3)):
        export_loss(loss, tmp_path / "l", **sizes, names=("a",))
    assert not (tmp_path / "l").exists()


class TinyDetector(nn.Module):
    """A user's own model: two levels from two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 2 * 8, 8, stride=8)
        self.coarse = nn.Conv2d(2 * 8, 2 * 8, 2, stride=2)

    def forward(self, images):
        fine = self.fine(images)
        return tuple(
            x.view(x.shape[0], 2, 8, *x.shape[2:]).permute(0, 1, 3, 4, 2)
            for x in (fine, self.coarse(fine))
        )


class NoGradDetector(TinyDetector):
    def forward(self, images):
        with torch.no_grad():
            images = images * 2
        return super().forward(images)


class UnusedDetector(TinyDetector):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 1)


class DetachedDetector(TinyDetector):
    """Its fine level trains nothing but itself through a detached path."""

    def forward(self, images):
        fine = self.fine(images)
        return tuple(
            x.view(x.shape[0], 2, 8, *x.shape[2:]).permute(0, 1, 3, 4, 2)
            for x in (fine, self.coarse(fine.detach()))
        )


def export_tiny(model, folder, **options):
    settings = {"image_size": (32, 32), "batch_size": 2, "max_targets": 4} | options
    return export_training_artifacts(model, YoloLoss(ANCHORS, STRIDES, 3), folder, **settings)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_own_model_with_detach_trains_as_in_torch(tmp_path, optimizer):
    torch.manual_seed(0)
    model = DetachedDetector()
    export_tiny(model, tmp_path / "tiny", optimizer=optimizer)
    session = TrainSession.open(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    images = rng.random((2, 3, 32, 32), np.float32)
    rows = np.array([(0, 1, 0.4, 0.6, 0.4, 0.6), (1, 2, 0.5, 0.5, 0.9, 0.9)], np.float32)
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    groups = [
        {"params": weights, "weight_decay": 0.01},
        {"params": biases, "weight_decay": 0.0, "lr": 0.02},
    ]
    torch_optimizer = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.999)),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.999)),
    }[optimizer]()
    loss = YoloLoss(ANCHORS, STRIDES, 3)
    for _ in range(3):
        value, _ = loss(model(torch.tensor(images)), torch.tensor(rows))
        torch_optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        assert norm > 0.5  # or clipping is not tested
        torch_optimizer.step()
        result = session.step(
            images, rows, lr=(0.01, 0.01, 0.02), momentum=0.9, weight_decay=0.01, max_norm=0.5
        )
        np.testing.assert_allclose(result.loss, value.item(), rtol=2e-6)
    state = session.state().model
    for name, parameter in model.named_parameters():
        # Adam makes a visible step of the rounding of a single gradient that is nearly 0.
        expected = parameter.detach().numpy()
        difference = np.linalg.norm(state[name] - expected)
        assert difference <= 3e-6 * np.linalg.norm(expected), name


def test_optimizer_model_is_torchs_adamw(tmp_path):
    """`optimizer_model.onnx` is for hosts in other languages; here its own API drives it."""
    from onnxruntime.training.api import CheckpointState, Module, Optimizer

    torch.manual_seed(0)
    model = TinyDetector()
    folder = tmp_path / "tiny"
    export_tiny(model, folder, optimizer="adamw")
    state = CheckpointState.load_checkpoint(folder / "checkpoint")
    module = Module(folder / "training_model.onnx", state, folder / "eval_model.onnx")
    optimizer = Optimizer(folder / "optimizer_model.onnx", module)
    optimizer.set_learning_rate(0.01)
    reference = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss = YoloLoss(ANCHORS, STRIDES, 3)
    images = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    targets = np.zeros((4, 6), np.float32)
    targets[0] = (0, 1, 0.4, 0.6, 0.4, 0.6)
    for _ in range(3):
        module.lazy_reset_grad()
        module(images, targets, loss.initial_balance.numpy())
        optimizer.step()
        value, _ = loss(model(torch.tensor(images)), torch.tensor(targets))
        reference.zero_grad()
        value.backward()
        reference.step()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(
            state.parameters[name].data, parameter.detach(), rtol=2e-5, atol=2e-6
        )


@pytest.mark.parametrize(
    ("model", "options", "told"),
    [
        (NoGradDetector(), {}, ("torch.no_grad()", ".detach()")),
        (UnusedDetector(), {}, ("unused.bias",)),
        (TinyDetector(), {"freeze": 1}, ("freeze", "TinyDetector")),
        (TinyDetector(), {"image_size": (32, 32), "batch_size": 0}, ("batch_size", 0)),
        (TinyDetector(), {"names": ("a",)}, ("names", 1, 3)),
    ],
)
def test_export_refuses_what_it_would_get_wrong(tmp_path, model, options, told):
    with pytest.raises(ExportError, match=mentions(*told)):
        export_tiny(model, tmp_path / "tiny", **options)
    assert list(tmp_path.iterdir()) == []


def test_model_and_loss_that_do_not_fit(tmp_path):
    with pytest.raises(ExportError, match=mentions("strides", [8, 16], [16, 32])):
        export_training_artifacts(
            TinyDetector(),
            YoloLoss(ANCHORS, (16, 32), 3),
            tmp_path / "tiny",
            image_size=(32, 32),
            batch_size=2,
            max_targets=4,
        )
    with pytest.raises(ConfigError, match=mentions((2, 2, 4, 4, 8), "(B, 2, H, W, 10)")):
        export_training_artifacts(
            TinyDetector(),
            YoloLoss(ANCHORS, STRIDES, 5),
            tmp_path / "tiny",
            image_size=(32, 32),
            batch_size=2,
            max_targets=4,
        )


@pytest.fixture
def copied(ort_artifact, tmp_path) -> Path:
    return Path(shutil.copytree(ort_artifact, tmp_path / "artifact"))


@pytest.mark.parametrize(
    "name", ["training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint"]
)
@pytest.mark.parametrize("place", [0.0, 0.37, 0.999])
def test_one_changed_byte_is_refused(copied, name, place):
    content = bytearray((copied / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=mentions(copied / name, "damaged")):
        TrainSession.open(copied)


def test_cut_and_missing_files_are_refused(copied):
    path = copied / "checkpoint"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=mentions(path, "damaged")):
        TrainSession.open(copied)
    path.unlink()
    with pytest.raises(ArtifactError, match=mentions(path, "missing")):
        TrainSession.open(copied)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": "exportloss/0"}, ("'exportloss/0'", "exportloss/1")),
        ({"kind": ["loss"]}, ("damaged",)),
        ({"image_size": [1]}, ("damaged",)),
        ({"files": {"../outside": {"sha256": "", "size": 0}}}, ("../outside",)),
        ({"loss": {"box": -1}}, ("damaged", "box", -1)),
    ],
)
def test_bad_manifest_is_refused(copied, change, told):
    edit_manifest(copied, **change)
    with pytest.raises(ArtifactError, match=mentions(copied, *told)):
        TrainSession.open(copied)


def test_folder_that_is_no_artifact(tmp_path, copied):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ArtifactError, match=mentions(folder, "manifest.json")):
            TrainSession.open(folder)
    (copied / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=mentions(copied / "manifest.json", "readable")):
        TrainSession.open(copied)


def test_loss_artifact_does_not_train(tmp_path):
    loss = YoloLoss(ANCHORS, STRIDES, 3)
    export_loss(loss, tmp_path / "l", image_size=(32, 32), batch_size=1, max_targets=2)
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "l", "'loss'", "train")):
        TrainSession.open(tmp_path / "l")


def test_output_folder_is_never_overwritten_by_accident(tmp_path, copied):
    with pytest.raises(ArtifactError, match=mentions(copied, "exist_ok")), new_folder(copied):
        pass
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "image.png").write_bytes(b"precious")
    with (
        pytest.raises(ArtifactError, match=mentions(other, "artifacts folder")),
        new_folder(other, exist_ok=True),
    ):
        pass
    assert (other / "image.png").read_bytes() == b"precious"


def test_failed_write_leaves_what_was_there(tmp_path, copied):
    path = tmp_path / "state"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), new_file(path) as temporary:
        temporary.write_bytes(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    before = Manifest.read(copied)
    with pytest.raises(ZeroDivisionError), new_folder(copied, exist_ok=True):
        raise ZeroDivisionError
    assert Manifest.read(copied) == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["artifact", "state"]


def test_manifest_round_trip(ort_artifact, tmp_path):
    manifest = Manifest.read(ort_artifact)
    assert manifest.names and manifest.num_classes == len(manifest.names)
    (tmp_path / "manifest.json").write_text(manifest.to_json())
    assert Manifest.read(tmp_path) == manifest
    assert dataclasses.replace(manifest, files={}) != manifest


def test_older_manifests_are_read(ort_artifact, tmp_path):
    """Folders of 0.1 may lack what was added to the format since."""
    values = read_values(ort_artifact) | {"format": "exportloss/1"}
    del values["sha256"]
    for name in ("gradients", "ema"):
        assert values.pop(name) is False
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    assert Manifest.read(tmp_path) == Manifest.read(ort_artifact)

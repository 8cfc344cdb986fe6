"""An update without a batch is the one that a step makes of the same sum of gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from exportloss import ArtifactError, ConfigError
from exportloss.export import export_train_step
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.optimizers.table import OPTIMIZERS
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss
from tests.support.training_runs import assert_same_state

SIZES = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
SETTINGS = {"lr": (0.02, 0.01, 0.03), "momentum": 0.8, "weight_decay": 0.01, "max_norm": 5.0}


def export_step(folder: Path, **options) -> Path:
    export_train_step(make_detector(), make_loss(), folder, **SIZES, **options)
    return folder


def batch(seed: int):
    images, targets = make_batch(seed)
    return images.numpy(), targets.numpy()


def assert_equal(one: TrainSession, other: TrainSession) -> None:
    first, second = one.state(), other.state()
    assert (first.updates, first.skipped) == (second.updates, second.skipped)
    np.testing.assert_array_equal(first.balance, second.balance)
    assert_same_state(first.model, second.model)
    assert_same_state(first.ema, second.ema)
    for kept, tensors in first.optimizer.items():
        assert_same_state(tensors, second.optimizer[kept])
    assert_same_state(one.gradients(), other.gradients())


def train(session: TrainSession, *, apart: bool) -> None:
    """Two updates, each of the gradients of three batches."""
    for update in range(2):
        for number in range(3):
            is_last = number == 2
            step = {"update": is_last and not apart, **SETTINGS}
            assert not session.step(*batch(3 * update + number), **step).skipped
        if apart:
            assert session.apply_gradients(**SETTINGS)


@pytest.mark.parametrize(
    "options",
    [
        *({"optimizer": name, "ema": True} for name in OPTIMIZERS),
        {"optimizer": "adamw", "freeze": [0, 1, 2]},
        {"optimizer": "sgd", "ema": True, "provider": "gpu"},
    ],
    ids=str,
)
def test_accumulating_and_applying_is_an_updating_step(options, tmp_path):
    model = make_detector()
    frozen = options.pop("freeze", [])
    for index in frozen:
        list(model.children())[index].requires_grad_(False)
    folder = tmp_path / "artifact"
    export_train_step(model, make_loss(), folder, **SIZES, **options)
    one, other = (TrainSession.open(folder, threads=1) for _ in range(2))
    train(one, apart=False)
    train(other, apart=True)
    assert one.updates == 2
    assert_equal(one, other)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return export_step(tmp_path_factory.mktemp("apply") / "artifact", optimizer="adamw", ema=True)


def test_training_artifacts_apply_as_they_step(ort_artifact):
    one, other = (TrainSession.open(ort_artifact, threads=1) for _ in range(2))
    train(one, apart=False)
    train(other, apart=True)
    assert_equal(one, other)


def test_a_given_sum_replaces_the_accumulated_one(folder):
    giver, one, other = (TrainSession.open(folder, threads=1) for _ in range(3))
    giver.step(*batch(0), lr=0.0, update=False)
    one.step(*batch(0), lr=0.0, update=False)
    assert one.apply_gradients(**SETTINGS)
    other.step(*batch(1), lr=0.0, update=False)
    assert other.apply_gradients(giver.gradients(), **SETTINGS)
    for kept, tensors in one.state().optimizer.items():
        assert_same_state(tensors, other.state().optimizer[kept])
    assert not any(gradient.any() for gradient in other.gradients().values())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_sum_without_a_norm_is_skipped(folder, value):
    one, other = (TrainSession.open(folder, threads=1) for _ in range(2))
    for session in (one, other):
        session.step(*batch(0), lr=0.0, update=False)
    gradients = {name: np.full_like(g, value) for name, g in one.gradients().items()}
    assert not one.apply_gradients(gradients, **SETTINGS)
    assert (one.updates, one.skipped) == (0, 1)
    for session in (one, other):
        assert session.apply_gradients(**SETTINGS)
    assert_same_state(one.state().model, other.state().model)
    assert_same_state(one.state().ema, other.state().ema)


def test_gradients_of_other_parameters_are_refused(folder):
    session = TrainSession.open(folder, threads=1)
    right = dict(session.gradients())
    name, gradient = next(iter(right.items()))
    for wrong, said in (
        ({k: v for k, v in right.items() if k != name}, (name, len(right))),
        ({**right, "stranger": gradient}, ("stranger", len(right))),
        ({**right, name: gradient[:1]}, (name, gradient[:1].shape, gradient.shape)),
        ({**right, name: "0.1"}, (name, "str", "float32")),
        ({**right, name: None}, (name, "NoneType", "float32")),
        ({**right, name: gradient.astype(complex)}, (name, "complex128", "float32")),
        (list(right.values()), ("gradients is list",)),
    ):
        with pytest.raises(ConfigError, match=mentions(*said)) as caught:
            session.apply_gradients(wrong, lr=0.1)
        assert caught.value.argument == "gradients"
    with pytest.raises(ConfigError, match=mentions("momentum", 1.0)):
        session.apply_gradients(lr=0.1, momentum=1.0)
    for rates in ((0.1, 0.2), "fast"):
        with pytest.raises(ConfigError, match=mentions("lr is", repr(rates))) as caught:
            session.apply_gradients(lr=rates)
        assert caught.value.argument == "lr"
    assert session.skipped == 0


def test_folders_of_earlier_versions_train_but_do_not_apply(folder, tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    for path in folder.iterdir():
        if path.name != "apply_step.onnx":
            (old / path.name).write_bytes(path.read_bytes())
    files = read_values(old)["files"]
    del files["apply_step.onnx"]
    edit_manifest(old, files=files)
    session = TrainSession.open(old, threads=1)
    assert not session.step(*batch(0), lr=0.01).skipped
    with pytest.raises(ArtifactError, match=mentions("apply_step.onnx", "export again")):
        session.apply_gradients(lr=0.01)
    assert session.updates == 1


def test_the_graph_holds_the_update_alone(folder):
    graph = ir.load(folder / "apply_step.onnx")
    names = {value.name for value in graph.graph.inputs}
    assert not names & {"images", "targets", "update", "balance"}
    assert not [node for node in graph.graph if node.op_type == "Conv"]
    assert (folder / "apply_step.onnx").stat().st_size < 20_000
    assert_runs_on_gpus(folder / "apply_step.onnx")
    others = ir.load(folder / "train_step.onnx")
    assert graph.metadata_props == others.metadata_props
    assert Manifest.read(folder).files["apply_step.onnx"].size > 0

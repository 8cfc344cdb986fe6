"""Features of images, computed once: steps on them have the bits of steps on the images."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from torch import nn

from exportloss import ArtifactError, DataError, ExportError
from exportloss.export import export_train_step
from exportloss.export.aten import branches
from exportloss.runtime import TrainSession
from exportloss.runtime.sessions import step_loop
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss

SIZE = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}


def frozen_detector() -> nn.Module:
    """A detector whose first layers, without BatchNorm in training mode, are not trained."""
    model = make_detector()
    model.stem[0][1] = nn.Identity()
    model.stem.requires_grad_(False)
    return model


@pytest.fixture(scope="module", params=["any", "cpu"])  # the latter with the update in a branch
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features") / "artifact"
    settings = {"features": True, "provider": request.param}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "_MANY", 1)  # or a small detector's update has no branch
        export_train_step(frozen_detector(), make_loss(), folder, **settings, **SIZE)
    kinds = [node.op_type for node in ir.load(folder / "train_features.onnx").graph]
    assert ("If" in kinds) == (request.param == "cpu")
    return folder


@pytest.mark.parametrize("large", [step_loop.LARGE, 0])  # a state of two buffers, and of one
def test_steps_on_features_have_the_bits_of_steps_on_images(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, large: int
):
    plain = TrainSession.open(artifact, threads=1)
    monkeypatch.setattr(step_loop, "LARGE", large)
    kept = TrainSession.open(artifact, threads=1)
    batches = [tuple(tensor.numpy() for tensor in make_batch(seed)) for seed in range(2)]
    store = [kept.features(images) for images, _ in batches]
    for number, update in enumerate((True, False, True, True)):
        images, targets = batches[number % 2]
        settings = {"lr": 0.01, "update": update}
        wanted = plain.step(images, targets, **settings)
        # Steps on images go between those on features.
        train, batch = (
            (kept.step, images) if number == 2 else (kept.step_features, store[number % 2])
        )
        got = train(batch, targets, **settings)
        assert (got.loss, got.items) == (wanted.loss, wanted.items)
    for name in ("parameters", "statistics", "gradients", "optimizer_momentum"):
        np.testing.assert_array_equal(kept.read_vector(name), plain.read_vector(name))
    assert kept.updates == 3


def test_threads_that_ask_for_shapes_at_a_time_open_one_graph(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
):
    session = TrainSession.open(artifact, threads=1)
    open_graph = session._open

    def slowly(name: str) -> object:
        time.sleep(0.1)
        return open_graph(name)

    monkeypatch.setattr(session, "_open", slowly)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: session.feature_shapes, range(2))
    assert one == other


def test_features_of_a_image_do_not_depend_on_its_batch(artifact: Path):
    session = TrainSession.open(artifact, threads=1)
    (first, _), (second, _) = ((x.numpy(), y) for x, y in (make_batch(0), make_batch(1)))
    mixed = session.features(np.stack([first[1], second[0]]))
    for name, array in mixed.items():
        assert array.shape[0] == 2
        np.testing.assert_array_equal(array[0], session.features(first)[name][1])
        np.testing.assert_array_equal(array[1], session.features(second)[name][0])


def test_other_features_are_refused(artifact: Path):
    session = TrainSession.open(artifact, threads=1)
    images, targets = (tensor.numpy() for tensor in make_batch(0))
    features = session.features(images)
    for bad in ({}, {name: array[:1] for name, array in features.items()}):
        with pytest.raises(DataError, match=mentions("features", "feature_0", "float32")):
            session.step_features(bad, targets, lr=0.01)
    assert not session.step_features(features, targets, lr=0.01).skipped


def test_trained_first_layers_have_no_features(tmp_path: Path):
    with pytest.raises(ExportError, match=mentions("first layers are trained", "freeze=10")):
        export_train_step(make_detector(), make_loss(), tmp_path / "a", features=True, **SIZE)
    export_train_step(frozen_detector(), make_loss(), tmp_path / "b", **SIZE)
    session = TrainSession.open(tmp_path / "b", threads=1)
    with pytest.raises(ArtifactError, match=mentions("features.onnx", "features=True")):
        session.features(make_batch(0)[0].numpy())

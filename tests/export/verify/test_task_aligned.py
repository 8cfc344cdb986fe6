"""A detector without anchors trains in every artifact as in eager torch, in float64."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from exportloss import ExportError
from exportloss.export import export_loss, export_train_step, export_training_artifacts
from exportloss.export.detector.wrapper import prepare
from exportloss.export.verify.verify import verify_all
from exportloss.runtime import LossSession, Manifest, TrainSession
from tests.support.anchor_free import CLASSES, IMAGE, REG_MAX, STRIDES, make_loss, make_model
from tests.support.manifests import edit_manifest
from tests.support.messages import mentions
from tests.support.tiny_detector import make_batch

SIZES = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
EXPORTS = {"step": export_train_step, "ort": export_training_artifacts}
STEPS = 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Both kinds of artifact for SGD and AdamW."""
    folder, made = tmp_path_factory.mktemp("anchor-free"), {}
    for kind, optimizer in itertools.product(EXPORTS, ("sgd", "adamw")):
        made[kind, optimizer] = folder / f"{kind}-{optimizer}"
        if (kind, optimizer) == ("ort", "adamw"):  # the session updates: its graphs are the same
            shutil.copytree(made["ort", "sgd"], made["ort", "adamw"])
            edit_manifest(made["ort", "adamw"], optimizer="adamw")
            continue
        EXPORTS[kind](
            make_model(), make_loss(), made[kind, optimizer], optimizer=optimizer, **SIZES
        )
    return made


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_both_artifacts_train_as_eager_torch_does(folders, optimizer):
    found = verify_all(
        [folders[kind, optimizer] for kind in EXPORTS], steps=STEPS, model=make_model(), threads=1
    )
    for verification in found:
        assert verification.broken == ()
        assert len(verification.steps) == STEPS
        terms = verification.worst.terms
        assert list(terms) == ["box", "cls", "dfl"]
        assert all(term.value > 0 for term in terms.values())  # not compared with itself


def test_a_manifest_names_the_loss_and_no_anchors(folders):
    manifest = Manifest.read(folders["step", "sgd"])
    assert (manifest.loss.kind, manifest.anchors, manifest.strides) == ("task-aligned", (), STRIDES)
    assert manifest.loss == make_loss().config
    assert manifest.loss_state == {}


def test_states_go_from_one_artifact_to_the_other(folders, tmp_path):
    images, targets = make_batch(0)
    batch = images.numpy(), targets.numpy()
    step, ort = (TrainSession.open(folders[kind, "sgd"], threads=1) for kind in EXPORTS)
    result = step.step(*batch, lr=0.01)
    assert list(result.items) == ["box", "cls", "dfl"]
    assert result.loss == pytest.approx(2 * result.items.total, rel=1e-6)
    step.save(tmp_path / "state.safetensors")
    ort.resume(tmp_path / "state.safetensors")
    assert ort.state().loss == step.state().loss == {}
    mine, theirs = step.evaluate(*batch), ort.evaluate(*batch)
    assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
    assert mine.predictions.shape == (2, 8 * 8 + 4 * 4, 5 + CLASSES)
    assert (mine.predictions[..., 4] == 1).all()  # no objectness
    np.testing.assert_allclose(mine.predictions, theirs.predictions, rtol=1e-4, atol=1e-4)


def test_the_loss_alone_gives_loss_and_gradients_of_torch(tmp_path):
    export_loss(make_loss(), tmp_path / "loss", gradients=True, tiers=(), **SIZES)
    session = LossSession.open(tmp_path / "loss", threads=1)
    _, targets = make_batch(0)
    torch.manual_seed(0)
    maps = {name: torch.randn(shape) for name, shape in session.input_shapes.items()}
    assert [m.shape[1] for m in maps.values()] == [4 * REG_MAX + CLASSES] * 2
    result = session.compute({name: level.numpy() for name, level in maps.items()}, targets.numpy())
    assert result.state == {}
    levels = [level.requires_grad_() for level in maps.values()]
    expected = make_loss().reference()(levels, targets)
    expected.loss.backward()
    assert result.loss == pytest.approx(expected.loss.item(), rel=1e-5)
    assert list(result.items) == ["box", "cls", "dfl"]
    np.testing.assert_allclose(list(result.items.values()), expected.terms, rtol=1e-5)
    for index, level in enumerate(levels):
        gradient = result.gradients[f"gradient_{index}"].numpy()
        error = np.linalg.norm(gradient - level.grad.numpy()) / level.grad.norm().item()
        assert error < 1e-5


def test_what_only_yolov5s_loss_can_is_refused(tmp_path):
    with pytest.raises(ExportError, match=mentions("sparse", "task-aligned", "dense")):
        prepare(make_model(), make_loss(), head="sparse", **SIZES)
    with pytest.raises(ExportError, match=mentions("permuted", "task-aligned", "head-output")):
        export_loss(make_loss(), tmp_path / "loss", layout="permuted", **SIZES)


def test_layers_of_the_detectors_own_are_frozen():
    detector = prepare(make_model(), make_loss(), frozen=2, **SIZES)
    trained = detector.groups.weights + detector.groups.norms + detector.groups.biases
    assert trained and not any(name.startswith(("stem", "fine")) for name in trained)


def test_a_parameter_whose_gradient_cancels_does_not_keep_others_from_being_judged(tmp_path):
    """A bias before BatchNorm: rounding is all that float32 has of its gradient."""
    model = make_model()
    before = model.fine[1][0]
    model.fine[1][0] = torch.nn.Conv2d(before.in_channels, before.out_channels, 3, padding=1)
    export_train_step(model, make_loss(), tmp_path / "step", **SIZES)
    (found,) = verify_all([tmp_path / "step"], steps=1, model=model, threads=1)
    assert found.passed

"""Artifacts that train chosen parameters: as eager torch, and nothing for the others."""

from __future__ import annotations

import math

import pytest

from exportloss.export import export_train_step, export_training_artifacts
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.export.verify.verify import verify_all
from exportloss.runtime import Manifest
from tests.support.tiny_detector import IMAGE, make_detector, make_loss

SIZES = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
PATTERNS = ("head.*", "coarse.[02].*.weight")


@pytest.mark.parametrize(
    ("update", "optimizer"), [("bias", "adamw"), ("norm", "sgd"), (PATTERNS, "sgd")]
)
def test_artifacts_train_as_eager_torch_with_the_same_parameters(update, optimizer, tmp_path):
    kinds = {"step": export_train_step, "ort": export_training_artifacts}
    if update == PATTERNS:
        del kinds["ort"]  # tracing it takes seconds
    for kind, export in kinds.items():
        options = {"optimizer": optimizer, "update": update, **SIZES}
        export(make_detector(), make_loss(), tmp_path / kind, **options)
    folders = [tmp_path / kind for kind in kinds]
    for verification in verify_all(folders, steps=3, model=make_detector(), threads=1):
        assert verification.broken == ()
    trained, norms = Manifest.read(folders[0]).groups, Manifest.read(folders[0]).statistics
    assert bool(trained.norms) == bool(norms) == (update != "bias")
    assert bool(trained.weights) == (update == PATTERNS)


def test_no_gradient_is_computed_of_what_is_not_trained():
    def cost(update: str) -> int:
        """Multiply-adds of the step's convolutions and products that are no matter of the loss."""
        detector = prepare(make_detector(), make_loss(), update=update, head="dense", **SIZES)
        step = Step(detector, "sgd")
        graph = to_onnx(step.train, step.train_example(), modules=step.modules, name="step")
        found = 0
        for node in graph.graph:
            if node.op_type in ("Conv", "ConvTranspose", "MatMul"):
                weight = node.inputs[1].shape.numpy()
                terms = weight[-2] if node.op_type == "MatMul" else math.prod(weight[1:])
                found += math.prod(node.outputs[0].shape.numpy()) * terms
        return found

    # Forward pass, gradients of inputs and of weights: a third each.
    assert cost("bias") == cost("norm") < 0.7 * cost("all")

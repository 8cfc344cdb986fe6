"""A step that computes activations again: the same bits, and less that is kept."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from exportloss.errors import ExportError
from exportloss.export import export_train_step
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.export.step.recompute import recompute
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss

EVERYTHING = 10**12


@pytest.fixture(scope="module")
def step() -> Step:
    size = {"image_size": (2 * IMAGE, 2 * IMAGE), "batch_size": 2, "max_targets": 8}
    return Step(prepare(make_detector(), make_loss(), **size), "sgd")


@pytest.fixture(scope="module")
def traced(step: Step) -> onnx.ModelProto:
    example = step.train_example()
    return ir.to_proto(to_onnx(step.train, example, modules=step.modules, name="train_step"))


def outputs(step: Step, model: ir.Model) -> list[np.ndarray]:
    """Results of a step whose nodes run one by one, as they are in the file."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    images, targets = make_batch(0)
    feed = {name: np.asarray(value) for name, value in step.train_example().items()}
    feed["images"], feed["targets"] = np.tile(images.numpy(), (1, 1, 2, 2)), targets.numpy()
    feed["learning_rates"] = np.full(3, 0.1, np.float32)
    return session.run(None, feed)


def test_the_budget_is_kept_and_no_bit_changes(step: Step, traced: onnx.ModelProto):
    model = ir.from_proto(traced)
    wanted = outputs(step, model)
    whole = recompute(model, EVERYTHING)
    assert (whole.recomputed, whole.nodes, whole.kept) == (0, 0, whole.kept_before)
    kept = [whole.kept_before]
    for share in (0.8, 0.7, 0.6):
        model = ir.from_proto(traced)
        plan = recompute(model, int(share * whole.kept_before))
        assert plan.kept <= share * plan.kept_before < plan.kept_before == whole.kept_before
        assert plan.recomputed < plan.nodes
        kept.append(plan.kept)
        for got, value in zip(outputs(step, model), wanted, strict=True):
            np.testing.assert_array_equal(got, value)
    assert kept == sorted(kept, reverse=True)


def test_without_a_budget_what_is_cheap_is_computed_again(step: Step, traced: onnx.ModelProto):
    model = ir.from_proto(traced)
    wanted = outputs(step, model)
    plan = recompute(model)
    assert plan.kept < 0.6 * plan.kept_before
    with pytest.raises(ExportError, match="keeps at least"):
        recompute(ir.from_proto(traced), plan.kept - 1)
    for got, value in zip(outputs(step, model), wanted, strict=True):
        np.testing.assert_array_equal(got, value)


def test_a_budget_that_cannot_be_kept_is_refused(traced: onnx.ModelProto):
    with pytest.raises(ExportError, match=mentions("keeps at least", "MB", "0.001 MB", "smaller")):
        recompute(ir.from_proto(traced), 1000)


def test_the_least_that_a_message_names_is_enough(traced: onnx.ModelProto):
    with pytest.raises(ExportError) as refusal:
        recompute(ir.from_proto(traced), 1000)
    found = re.search(r"at least ([0-9.]+) MB", str(refusal.value))
    assert found is not None
    budget = int(float(found[1]) * 1e6)
    assert recompute(ir.from_proto(traced), budget).kept <= budget


@pytest.mark.parametrize("memory", [math.nan, math.inf, -1.0, 0])
def test_memory_that_is_no_number_above_0_is_refused(memory: float, tmp_path: Path):
    size = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
    with pytest.raises(ExportError, match=mentions(f"memory is {memory:g}", "above 0", "None")):
        export_train_step(make_detector(), make_loss(), tmp_path / "a", memory=memory, **size)
    assert not list(tmp_path.iterdir())

"""Updates in parts: of the same bits as in one."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from exportloss.export.aten.nodes import shape_of
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step import chunks as chunks_module
from exportloss.export.step.chunks import after, chunks
from exportloss.export.step.flat_state import flatten, flatten_parts
from exportloss.export.step.functions import Step
from exportloss.export.step.optimizers import l2_norm
from exportloss.runtime.artifact.flat_layout import FlatLayout
from tests.support.graphs.portable_loss import open_session
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss


@pytest.mark.parametrize("sizes", [(5, 0, 6), (1, 2, 3), (0, 30, 1), (4, 4, 4), (9, 0, 0)])
def test_parts_cover_every_element_of_every_group_once(sizes: tuple[int, ...]):
    groups = np.repeat(np.arange(3), sizes)
    found = list(chunks(sizes, 4))
    assert (len(found) == 1) == (sum(sizes) <= 8)
    np.testing.assert_array_equal(np.concatenate([groups[part] for part, _ in found]), groups)
    for part, inside in found:
        np.testing.assert_array_equal(np.repeat(np.arange(3), inside), groups[part])


@pytest.mark.parametrize(
    ("known", "value"), itertools.product([True, False], [1.0, -1.0, 0.0, torch.nan, torch.inf])
)
def test_a_condition_keeps_its_value(known: bool, value: float):
    assert bool(after(torch.tensor(known), [torch.full((3,), value), torch.zeros(2)])) == known


def update_graph(optimizer: str) -> tuple[Step, onnxruntime.InferenceSession]:
    size = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
    step = Step(prepare(make_detector(), make_loss(), **size), optimizer)
    graph = to_onnx(step.apply, step.apply_example(), modules=step.modules, name="apply_step")
    return step, open_session(graph)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("worst", [1.0, np.nan])
def test_an_update_in_parts_has_the_bits_of_a_whole_one(optimizer, worst, monkeypatch):
    step, whole = update_graph(optimizer)
    monkeypatch.setattr(chunks_module.chunks, "__defaults__", (1024,))
    _, parts = update_graph(optimizer)
    size = step.parameters.size
    assert size > 2 * 1024  # or nothing is cut
    rng = np.random.default_rng(0)
    feed = {name: np.asarray(value) for name, value in step.apply_example().items()}
    vectors = [name for name, value in feed.items() if value.shape == (size,)]
    feed |= {name: rng.random(size, np.float32) for name in vectors}
    settings = {"updates": 3, "max_norm": 1, "weight_decay": 0.1, "learning_rates": [0.1, 0.2, 0.3]}
    feed |= {name: np.array(value, np.float32) for name, value in settings.items()}
    feed["gradients"][7] *= worst
    for got, wanted in zip(parts.run(None, feed), whole.run(None, feed), strict=True):
        np.testing.assert_array_equal(got, wanted)
    names = [output.name for output in whole.get_outputs()]
    new = dict(zip(names, parts.run(None, feed), strict=True))["new_parameters"]
    assert np.array_equal(new, feed["parameters"]) == np.isnan(worst)


def test_the_norm_of_parts_has_the_bits_of_the_whole(monkeypatch):
    vector = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    whole = l2_norm([vector])
    monkeypatch.setattr(chunks_module.chunks, "__defaults__", (1024,))
    assert torch.equal(l2_norm([vector[part] for part, _ in chunks([10_000])]), whole)


def test_gradients_are_joined_part_by_part():
    layout = FlatLayout(("a", "b", "c", "d"), ((3, 2), (7,), (1,), (5,)))
    tensors = {
        name: torch.randn(shape) for name, shape in zip(layout.names, layout.shapes, strict=True)
    }
    whole = flatten(layout, tensors)
    parts = [part for part, _ in chunks([layout.size], 4)]
    assert len(parts) == 5
    for part, found in zip(parts, flatten_parts(layout, tensors, parts), strict=True):
        assert torch.equal(found, whole[part])
    assert torch.equal(flatten_parts(layout, tensors, [slice(None)])[0], whole)


def test_a_step_in_parts_has_the_bits_of_a_whole_one(monkeypatch):
    size = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
    step = Step(prepare(make_detector(), make_loss(), **size), "adam")
    feed = {name: np.asarray(value) for name, value in step.train_example().items()}
    images, targets = make_batch(0)
    feed |= {"images": images.numpy(), "targets": targets.numpy()}
    feed |= {"learning_rates": np.full(3, 0.1, np.float32), "max_norm": np.ones((), np.float32)}
    results = []
    for chunk in (1 << 22, 1024):
        monkeypatch.setattr(chunks_module.chunks, "__defaults__", (chunk,))
        graph = to_onnx(step.train, step.train_example(), modules=step.modules, name="train_step")
        results.append(open_session(graph).run(None, feed))
        longest = max(shape_of(value)[0] for value in joined(graph))
        assert longest == (step.parameters.size if chunk > 1024 else 1024)
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(got, wanted)


def joined(graph: ir.Model) -> list[ir.Value]:
    """Vectors that the optimizer joins, other than outputs."""
    found = [node.outputs[0] for node in graph.graph if node.op_type == "Concat"]
    ends = {value.producer().inputs[0] for value in graph.graph.outputs}
    return [
        value
        for value in found
        if value.name.startswith("optimizer/") and value not in ends and len(shape_of(value)) == 1
    ]

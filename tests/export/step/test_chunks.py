"""Updates in parts: of the same bits as in one."""

from __future__ import annotations

import itertools

import numpy as np
import onnxruntime
import pytest
import torch

from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step import chunks as chunks_module
from exportloss.export.step.chunks import after, chunks
from exportloss.export.step.functions import Step
from exportloss.export.step.optimizers import l2_norm
from tests.support.graphs.portable_loss import open_session
from tests.support.tiny_detector import IMAGE, make_detector, make_loss


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

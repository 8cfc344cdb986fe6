"""Maxima with their places, translated: of equal values the first, in both forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from exportloss.export.aten.to_onnx import to_onnx
from exportloss.loss.task_aligned.largest import largest_places
from tests.support.graphs.portable_loss import open_session
from tests.support.graphs.translations import randn

TIED = torch.tensor(np.random.default_rng(0).integers(0, 3, (6, 40)), dtype=torch.float32)


def run(function, x, **options):
    graph = to_onnx(lambda inputs: function(inputs["x"]), {"x": x}, name="test", **options)
    found = open_session(graph).run(None, {"x": x.numpy()})
    return graph, dict(zip([output.name for output in graph.graph.outputs], found, strict=True))


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize(
    "function", [torch.max, torch.min, torch.argmax, torch.argmin], ids=lambda f: f.__name__
)
def test_extremes(function, dim, keepdim):
    for x in (randn(4, 5, 3), TIED, TIED > 0, TIED.long()):
        if x.dtype == torch.bool and function in {torch.argmax, torch.argmin}:
            continue  # not in torch
        want = function(x, dim=dim, keepdim=keepdim)
        values = (want,) if isinstance(want, torch.Tensor) else tuple(want)

        def named(x, function=function, dim=dim, keepdim=keepdim):
            got = function(x, dim=dim, keepdim=keepdim)
            parts = (got,) if isinstance(got, torch.Tensor) else got
            return {f"part_{i}": part for i, part in enumerate(parts)}

        _, found = run(named, x)
        for got, wanted in zip(found.values(), values, strict=True):
            np.testing.assert_array_equal(got, wanted.numpy())
            assert got.dtype == wanted.numpy().dtype


def test_place_among_all():
    x = randn(4, 5)
    _, found = run(lambda x: {"most": torch.argmax(x), "least": torch.argmin(x)}, x)
    assert int(found["most"]) == int(x.argmax()) and int(found["least"]) == int(x.argmin())


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("largest", [True, False])
def test_topk(dim, largest):
    def function(x):
        values, places = x.topk(3, dim=dim, largest=largest)
        return {"values": values, "places": places}

    x = randn(6, 7)
    _, found = run(function, x)
    want = function(x)
    for name, got in found.items():
        np.testing.assert_array_equal(got, want[name].numpy())


@pytest.mark.parametrize(
    ("provider", "operator"), [("any", "ArgMax"), ("gpu", "ArgMax"), ("cpu", "TopK")]
)
def test_largest_places(provider, operator):
    graph, found = run(lambda x: {"places": largest_places(x, 7)}, TIED, provider=provider)
    want = np.argsort(-TIED.numpy(), axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(found["places"], want)
    kinds = {node.op_type for node in graph.graph}
    assert operator in kinds and not {"ArgMax", "TopK"} <= kinds

"""The detector alone takes any number of images, where that number is nothing but a size."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from exportloss.export.detector.inference_graph import inference_graph
from tests.support.graphs.portable_loss import open_session

SCALE = torch.tensor([1.0, -2.0, 3.0])


def write(function):
    def infer(named: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"output0": function(named["images"] * named["scale"][:, None, None])}

    example = {"images": torch.zeros(2, 3, 4, 6), "scale": SCALE}
    return infer, inference_graph(infer, example, modules={})


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(x.shape[0], 3, 24).transpose(1, 2),
        lambda x: x.view(-1, 72)[:, :8].reshape(-1, 2, 4) if x.ndim == 4 else x,
        lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0) * 2,
    ],
)
def test_a_free_number_of_images(function):
    infer, graph = write(function)
    assert str(graph.graph.inputs[0].shape) == "[batch,3,4,6]"
    assert str(graph.graph.outputs[0].shape[0]) == "batch"
    session = open_session(graph)
    for count in (1, 2, 5):
        images = torch.rand(count, 3, 4, 6, generator=torch.Generator().manual_seed(count))
        (got,) = session.run(None, {"images": images.numpy(), "scale": SCALE.numpy()})
        want = infer({"images": images, "scale": SCALE})["output0"]
        torch.testing.assert_close(torch.from_numpy(got), want)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(-1, 6),  # images and rows in one dimension
        lambda x: x + x.mean(0, keepdim=True).expand(x.shape),
        lambda x: x * torch.arange(x.shape[0])[:, None, None, None],
        lambda x: x.sum(0, keepdim=True) / x.shape[0],
        lambda x: x.transpose(0, 1),
    ],
)
def test_a_number_that_is_more_than_a_size_stays(function):
    infer, graph = write(function)
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    (got,) = open_session(graph).run(None, {"images": images.numpy(), "scale": SCALE.numpy()})
    want = infer({"images": images, "scale": SCALE})["output0"]
    torch.testing.assert_close(torch.from_numpy(got), want)
    if graph.graph.inputs[0].shape != ir.Shape([2, 3, 4, 6]):  # then it is right for others too
        (got,) = open_session(graph).run(
            None, {"images": images[:1].numpy(), "scale": SCALE.numpy()}
        )
        want = infer({"images": images[:1], "scale": SCALE})["output0"]
        torch.testing.assert_close(torch.from_numpy(got), want)

"""Translated operators against torch, values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from exportloss.errors import ExportError
from exportloss.export.aten.to_onnx import to_onnx
from tests.support.graphs.portable_loss import open_session
from tests.support.graphs.translations import check_translation, randn
from tests.support.messages import mentions


@pytest.mark.parametrize("axes", [(0, 2, 3), (1, 2, 3), (0, 1), (2, 3), (0, 2), (3,)])
@pytest.mark.parametrize("provider", ["any", "gpu"])
def test_sums_and_means(axes, provider):
    x = randn(2, 3, 4, 5)
    check_translation(lambda x: x.sum(axes) * x.mean(axes), x, provider=provider)
    check_translation(lambda x: x.sum(axes, keepdim=True) * x, x, provider=provider)


def test_sums_on_a_gpu_reduce_contiguous_axes_first():
    graph = to_onnx(
        lambda t: {"y": t["x"].sum((0, 2, 3))}, {"x": randn(2, 3, 4, 5)}, name="sum", provider="gpu"
    )
    assert [n.op_type for n in graph.graph] == ["ReduceSum", "ReduceSum", "Identity"]
    first, second, _ = graph.graph
    assert tuple(first.outputs[0].shape) == (2, 3)
    assert second.inputs[1].const_value.numpy().tolist() == [0]


# Of these sizes ONNX Runtime's own order of summing depends on the number of threads.
@pytest.mark.parametrize(
    "resample",
    [
        lambda x: functional.interpolate(x, scale_factor=2, mode="nearest"),
        lambda x: functional.interpolate(x, size=(9, 13), mode="nearest"),
        lambda x: functional.interpolate(x, scale_factor=1.7, mode="nearest"),
        lambda x: functional.interpolate(x, size=(11, 4), mode="bilinear"),
        lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        lambda x: functional.avg_pool2d(x, 3, 2, 1),
        lambda x: functional.avg_pool2d(x, (2, 3), 2, 1, ceil_mode=True, count_include_pad=False),
        lambda x: functional.adaptive_avg_pool2d(x, (4, 3)),
        lambda x: functional.adaptive_avg_pool2d(x, 1),
    ],
)
def test_resampling(resample):
    check_translation(resample, randn(2, 3, 6, 7))


@pytest.mark.parametrize(
    "activation",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        nn.LeakyReLU(0.1),
        nn.SiLU(),
        nn.SiLU(inplace=True),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.Sigmoid(),
        nn.Tanh(),
        nn.GELU(),
        nn.ELU(),
        nn.Softplus(),
        nn.Mish(),
        nn.Softmax(dim=1),
        nn.LogSoftmax(dim=1),
        nn.LayerNorm(5, elementwise_affine=False),
        nn.GroupNorm(2, 4, affine=False),
        nn.InstanceNorm2d(4),
        nn.PixelShuffle(2),
        nn.ChannelShuffle(2),
        nn.ZeroPad2d((1, 0, 2, -1)),
        nn.Flatten(),
    ],
    ids=str,
)
def test_layers(activation: nn.Module):
    check_translation(lambda x: activation(x * 3), randn(2, 4, 5, 5), modules=activation)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x @ y.t(),
        lambda x, y: torch.cat((x[1:, ::2], y[:1, 1::2].expand(3, 2)), dim=1),
        lambda x, y: (x - y).abs() * torch.maximum(x, y) / (2 + y.square()),
        lambda x, y: torch.stack(x.unbind(1)).flip(0) + y.t(),
        lambda x, y: torch.where(x > y, x.exp(), y**3).clamp(-1, 2),
        lambda x, y: x[torch.tensor([0, 2, 0])] * y[:, torch.tensor([3, -1])].sum(),
        lambda x, y: x[torch.tensor([[0, 2], [1, -1]]), torch.tensor([3, 1])] @ y[:2],
        lambda x, y: x.gather(1, (y > 0).long()) + y.std(dim=1, keepdim=True),
        lambda x, y: x.mean(0).cumsum(0) + y.amax(1, keepdim=True),
        lambda x, y: torch.log1p(x.abs()) + torch.expm1(y),
        lambda x, y: x.repeat(2, 1).roll(1, 0)[:4] + y.pow(2).sum().sqrt(),
        lambda x, y: torch.addmm(x[:, :2], x, y.t()[:, :2], beta=2, alpha=0.5),
        lambda x, y: functional.linear(x, y) - torch.linalg.vector_norm(y, dim=1),
    ],
)
def test_functions(function):
    check_translation(function, randn(4, 4), randn(4, 4) * 2)


def test_log1p_and_expm1_keep_full_precision_near_zero():
    x = torch.tensor([1e-9, -1e-6, 3e-4, -0.3, 0.7, 5.0, -20.0])
    graph = to_onnx(
        lambda t: {"a": torch.expm1(t["x"]), "b": torch.log1p(t["x"].abs())}, {"x": x}, name="test"
    )
    expm1, log1p = open_session(graph).run(None, {"x": x.numpy()})
    exact = x.double().numpy()
    np.testing.assert_allclose(expm1, np.expm1(exact), rtol=5e-7)
    np.testing.assert_allclose(log1p, np.log1p(np.abs(exact)), rtol=5e-7)


class _Sorts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(x)[0]


def test_operator_without_translation_is_named_with_its_module():
    model = nn.Sequential(nn.ReLU(), _Sorts())
    with pytest.raises(ExportError, match=mentions("aten.sort", "module '1'")):
        to_onnx(lambda t: {"y": model(t["x"])}, {"x": randn(3)}, name="test", modules={"": model})


def test_gradient_without_translation_is_named_with_its_module():
    model = nn.Sequential(nn.ReLU(), nn.Conv3d(1, 1, 3))
    with pytest.raises(
        ExportError, match=mentions("aten.convolution", "module '1'", "3-dimensional")
    ):
        to_onnx(
            lambda t: {"y": model(t["x"])},
            {"x": randn(1, 1, 4, 4, 4)},
            name="test",
            modules={"": model},
        )


def test_random_operators_are_refused():
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(ExportError, match=r"module '0'"):
        to_onnx(lambda t: {"y": model(t["x"])}, {"x": randn(3)}, name="test", modules={"": model})


class _Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * self.seen


def test_buffer_changed_in_place_is_refused():
    model = _Counts()
    with pytest.raises(ExportError, match="in place"):
        to_onnx(lambda t: {"y": model(t["x"])}, {"x": randn(3)}, name="test", modules={"": model})


def test_change_through_a_view_is_refused():
    def compute(t: dict[str, Tensor]) -> dict[str, Tensor]:
        x = t["x"] * 2
        x[0].relu_()
        return {"y": x}

    with pytest.raises(ExportError, match="memory"):
        to_onnx(compute, {"x": randn(3)}, name="test")


def test_float64_is_refused():
    with pytest.raises(ExportError, match="float64"):
        to_onnx(lambda t: {"y": t["x"].double() + 1}, {"x": randn(3)}, name="test")


@pytest.mark.parametrize("sizes", [(3000, 2000), (1, 5000, 7), tuple(range(1, 200)), (0, 9000)])
def test_long_vectors_are_split_and_joined_without_a_table_of_positions(sizes):
    """CUDA's Concat and Split copy a table in every run if the parts differ in size."""

    def compute(t: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = torch.split(t["x"], sizes)
        return {"y": torch.cat([part * (i + 1) for i, part in enumerate(parts)])}

    named = {"x": randn(sum(sizes))}
    graph = to_onnx(compute, named, name="test", provider="gpu")
    assert not {"Split", "Concat"} & {node.op_type for node in graph.graph}
    (found,) = open_session(graph).run(None, {"x": named["x"].numpy()})
    np.testing.assert_array_equal(found, compute(named)["y"].numpy())


def test_slices_for_a_gpu_stay_slices():
    """ONNX Runtime merges slices with int64 bounds into a Split, which needs a table on CUDA."""
    named = {"x": randn(5000)}
    for provider, bounds in (("any", torch.int64), ("gpu", torch.int32)):
        graph = to_onnx(lambda t: {"y": t["x"][7:] * 2}, named, name="test", provider=provider)
        (cut,) = (node for node in graph.graph if node.op_type == "Slice")
        kinds = {value.const_value.numpy().dtype.name for value in cut.inputs[1:]}
        assert kinds == {str(bounds).removeprefix("torch.")}

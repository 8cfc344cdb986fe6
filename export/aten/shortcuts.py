"""Fusions of an operator into the convolution or scatter before it.

Each inspects nodes already written. Nodes that become unused are removed with the others after the
translation.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import onnx_ir as ir

from exportloss.export.aten.builder import Builder
from exportloss.export.aten.nodes import shape_of

__all__ = ["fold_into_convolution", "merge_into_scatter", "scale_and_shift"]


def fold_into_convolution(
    t: Builder, x: ir.Value, factor: ir.Value, op_type: Literal["Mul", "Add"]
) -> ir.Value | None:
    """Fold a constant scale or shift per channel into a convolution with constant weights.

    A frozen BatchNorm after a frozen convolution is one scale and one shift.

    Returns:
        Output of the new convolution; None unless x is the output of such a convolution and factor
        such a constant.
    """
    source, by_channel = x.producer(), t.array_of(factor)
    if source is None or source.op_type != "Conv" or by_channel is None:
        return None
    weight, bias = _weight_and_bias(source)
    arrays = t.array_of(weight), np.float32(0) if bias is None else t.array_of(bias)
    if arrays[0] is None or arrays[1] is None or not _is_by_channel(x, factor):
        return None
    kernel, offset = arrays[0], np.broadcast_to(arrays[1], shape_of(x)[1:2])
    by_channel = by_channel.reshape(-1)
    if op_type == "Mul":
        kernel, offset = kernel * by_channel[:, None, None, None], offset * by_channel
    else:
        offset = offset + by_channel
    return _convolution(t, source, x, t.constant(kernel), t.constant(offset))


def scale_and_shift(t: Builder, x: ir.Value, scale: ir.Value, shift: ir.Value) -> ir.Value:
    """Return x * scale + shift, both (C,), as one convolution if a convolution computed x."""
    source = x.producer()
    channels = (shape_of(x)[1], *(1 for _ in shape_of(x)[2:]))
    if source is None or source.op_type != "Conv":
        return t.add(t.mul(x, t.reshape(scale, channels)), t.reshape(shift, channels))
    weight, bias = _weight_and_bias(source)
    kernel = t.mul(weight, t.reshape(scale, (channels[0], *(1 for _ in shape_of(weight)[1:]))))
    offset = shift if bias is None else t.add(t.mul(bias, scale), shift)
    return _convolution(t, source, x, kernel, offset)


def merge_into_scatter(t: Builder, scattered: ir.Value, x: ir.Value) -> ir.Value | None:
    """Rewrite scatter-add(zeros, updates) + x as scatter-add(x, updates), to save a pass over x.

    Returns:
        Output of the new scatter; None if `scattered` is not a sum scattered into zeros.
    """
    source = scattered.producer()
    if source is not None and source.op_type == "Reshape":
        source = _producer(source.inputs[0])
    if source is None or source.op_type != "ScatterElements" or not _is_zero(t, source.inputs[0]):
        return None
    attributes = {name: attribute.value for name, attribute in source.attributes.items()}
    if attributes["reduction"] != "add" or shape_of(x) != shape_of(scattered):
        return None
    shape = shape_of(source.outputs[0])
    out = t.op(
        "ScatterElements", t.reshape(x, shape), *source.inputs[1:], shape=shape, **attributes
    )
    return t.reshape(out, shape_of(scattered))


def _weight_and_bias(source: ir.Node) -> tuple[ir.Value, ir.Value | None]:
    _, weight, bias = (*source.inputs, None)[:3]
    assert weight is not None
    return weight, bias


def _convolution(
    t: Builder, source: ir.Node, x: ir.Value, weight: ir.Value, bias: ir.Value
) -> ir.Value:
    attributes = {name: attribute.value for name, attribute in source.attributes.items()}
    return t.op("Conv", source.inputs[0], weight, bias, shape=shape_of(x), **attributes)


def _is_by_channel(x: ir.Value, factor: ir.Value) -> bool:
    """Return whether factor has one element per channel of x, and more than one element."""
    shape = (1,) * (len(shape_of(x)) - len(shape_of(factor))) + shape_of(factor)
    return shape == (1, shape_of(x)[1], *(1 for _ in shape_of(x)[2:])) and math.prod(shape) > 1


def _is_zero(t: Builder, x: ir.Value | None) -> bool:
    """Return whether x is a constant, possibly expanded or reshaped, of nothing but zeros."""
    source = _producer(x)
    if source is not None and source.op_type in ("Expand", "Reshape"):
        return _is_zero(t, source.inputs[0])
    array = None if x is None else t.array_of(x)
    return array is not None and not array.any()


def _producer(x: ir.Value | None) -> ir.Node | None:
    return None if x is None else x.producer()

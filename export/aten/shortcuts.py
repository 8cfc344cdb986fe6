"""Fusions of an operator into the convolution or scatter before it.

Each inspects nodes already written. Nodes that become unused are removed with the others after the
translation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from exportloss.export.aten.builder import Builder
from exportloss.export.aten.nodes import dtype_of, shape_of

__all__ = [
    "fold_into_convolution",
    "joined_vectors",
    "merge_into_scatter",
    "scale_and_shift",
    "without_scale",
]

# Elements of a vector whose constant factor may be stored for each of them, and the fewest vectors
# for which that is done.
_SHORT, _FEW_FACTORS = 4096, 4


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


def joined_vectors(t: Builder, parts: Sequence[ir.Value]) -> ir.Value:
    """Join vectors, with those that are products by constants multiplied after they are joined.

    The rounding is the same. Running statistics and gradients of BatchNorms are such products,
    one node for each of which would take longer than its arithmetic.
    """
    runs: list[tuple[bool, list[ir.Value]]] = []
    for part in parts:
        is_short = shape_of(part)[0] <= _SHORT
        if not runs or runs[-1][0] != is_short:
            runs.append((is_short, []))
        runs[-1][1].append(part)
    joined = [_multiplied(t, run) if short else run for short, run in runs]
    return t.concat([vector for run in joined for vector in run], 0)


def _multiplied(t: Builder, vectors: Sequence[ir.Value]) -> Sequence[ir.Value]:
    """Return vectors that are joined to the same, in one piece if that is less work."""
    factored = [_factored(t, vector) for vector in vectors]
    if sum(factor != 1 for _, factor in factored) < _FEW_FACTORS:
        return vectors
    joined = t.concat([value for value, _ in factored], 0)
    sizes = [shape_of(vector)[0] for vector in vectors]
    factors = np.repeat(np.asarray([f for _, f in factored], dtype_of(joined).numpy()), sizes)
    return [t.mul(joined, t.constant(factors))]


def _factored(t: Builder, vector: ir.Value) -> tuple[ir.Value, float]:
    """Return a vector without its constant factor, and the factor, 1 if it has none."""
    source = vector.producer()
    if source is not None and source.op_type == "Reshape":
        source = _producer(source.inputs[0])
    if source is not None and source.op_type == "Mul":
        for value, factor in (source.inputs, source.inputs[::-1]):
            assert value is not None and factor is not None
            constant = t.array_of(factor)
            if constant is not None and constant.size == 1:
                return t.reshape(value, shape_of(vector)), float(constant.reshape(()))
    return vector, 1.0


def without_scale(gradient: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """Return a map without its last factor per channel, and the factor.

    Returns:
        The map as it is, and None, unless it was computed by such a product.
    """
    source = gradient.producer()
    if source is None or source.op_type != "Mul":
        return gradient, None
    for kept, factor in (source.inputs, source.inputs[::-1]):
        assert kept is not None and factor is not None
        if shape_of(kept) == shape_of(gradient) and _is_by_channel(gradient, factor):
            return kept, factor
    return gradient, None


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

"""The operators of `exportloss.loss.task_aligned`, dense over the maps, in ONNX.

They are written out for two reasons: ONNX Runtime's own Sigmoid and Softplus lose precision where
a trained detector's background lies, and every node here reads and writes tens of megabytes.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates
from exportloss.loss.task_aligned.cells import class_map_gradient, softplus_sum
from exportloss.loss.task_aligned.decoding import FARTHEST, mean_bins

__all__: list[str] = []


@translates(mean_bins._opoverload)
def _mean_bins(t: Translator, level: ir.Value, bins: int) -> ir.Value:
    batch, _, height, width = shape_of(level)
    cells, dtype = height * width, dtype_of(level)
    logits = t.slice(level, 1, 0, 4 * bins)
    if bins == 1:
        means = t.elementwise("Max", t.elementwise("Min", logits, FARTHEST), -FARTHEST)
        return t.reshape(means, (batch, 4, cells))
    logits = t.reshape(logits, (batch * 4, bins, cells))
    e = t.op("Exp", t.sub(logits, t.reduce("ReduceMax", logits, [1], keep=True)))
    # Numerator and denominator in one product.
    places = np.stack((np.arange(bins), np.ones(bins))).astype(dtype.numpy())
    sums = t.split(t.matmul(t.constant(places), e), [1, 1], 1)
    return t.reshape(t.div(*sums), (batch, 4, cells))


@translates(softplus_sum._opoverload)
def _softplus_sum(t: Translator, level: ir.Value, first: int) -> ir.Value:
    x = t.slice(level, 1, first, shape_of(level)[1])
    e = t.op("Exp", t.op("Min", x, t.op("Neg", x)))  # exp(-|x|)
    y = t.add(e, 1.0)
    # log(1 + e) = log(y) + log(1 + (e - (y - 1)) / y). The second term, of the rounding error of
    # 1 + e, matters only where e is small, and there y is 1. Three sums save two more passes.
    parts = (t.op("Log", y), t.sub(e, t.sub(y, 1.0)), t.op("Relu", x))
    axes = list(range(len(shape_of(x))))
    first_sum, *others = (t.reduce("ReduceSum", part, axes) for part in parts)
    for other in others:
        first_sum = t.add(first_sum, other)
    return first_sum


@translates(class_map_gradient._opoverload)
def _class_map_gradient(  # noqa: PLR0917 - the operator's signature
    t: Translator, level: ir.Value, scale: ir.Value, index: ir.Value, rows: ir.Value, first: int
) -> ir.Value:
    shape, dtype = shape_of(level), dtype_of(level)
    batch, channels, height, width = shape
    x = t.slice(level, 1, first, channels)
    # sigmoid(x) * scale; where exp(-x) is infinite, it is 0
    classes = t.div(scale, t.add(t.op("Exp", t.op("Neg", x)), 1.0))
    flat = t.reshape(
        t.concat([t.filled(0.0, (batch, first, height, width), dtype), classes], 1),
        (math.prod(shape),),
    )
    slots, size = shape_of(index)[0], math.prod(shape)
    bins, category = t.split(rows, [first, 1], 1)
    place = t.slice(index, 1, first, first + 1)
    category = t.add(category, t.op("Gather", flat, place, shape=(slots, 1)))
    values = t.concat([bins, category], 1)
    # TensorRT accepts no more indices than elements, which only tiny maps have.
    data = t.pad(flat, {0: (0, max(0, slots * (first + 1) - size))})
    written = t.op(
        "ScatterElements",
        data,
        t.reshape(index, (slots * (first + 1),)),
        t.reshape(values, (slots * (first + 1),)),
        shape=shape_of(data),
        axis=0,
        reduction="none",
    )
    return t.reshape(t.slice(written, 0, 0, size), shape)

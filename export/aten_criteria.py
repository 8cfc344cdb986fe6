"""ATen's loss criteria in ONNX."""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import onnx_ir as ir
import torch

from exportloss.errors import ExportError
from exportloss.export.aten_registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten

_NO_REDUCTION = 0


@translates(aten.binary_cross_entropy_with_logits.default)
def _bce_with_logits(
    t: Translator,
    x: ir.Value,
    y: ir.Value,
    weight: ir.Value | None = None,
    pos_weight: ir.Value | None = None,
    reduction: int = 1,
) -> ir.Value:
    if weight is not None or reduction != _NO_REDUCTION:
        raise ExportError('only reduction="none" without a weight is translated; do both yourself')
    # log(1 + e^-|x|) + max(x, 0) - x y: no term loses digits, whatever x and y are.
    log_term, above = _log1p(t, t.op("Exp", t.op("Neg", t.op("Abs", x)))), t.op("Relu", x)
    if pos_weight is None:
        return t.add(log_term, t.sub(above, t.mul(y, x)))
    positive = t.mul(y, pos_weight)
    factor = t.add(t.sub(positive, y), 1)
    return t.add(t.mul(factor, log_term), t.sub(t.mul(factor, above), t.mul(positive, x)))


def _log1p(t: Translator, x: ir.Value) -> ir.Value:
    """Log(1 + x), as `exportloss.graph_ops.log1p`."""
    y = t.add(x, 1)
    return t.add(t.op("Log", y), t.div(t.sub(x, t.sub(y, 1)), y))

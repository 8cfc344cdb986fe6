"""Where the translations of ATen operators are registered, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch._ops import OpOverload

from exportloss.errors import ExportError
from exportloss.export.aten.builder import Builder, Operand, dtype_of

__all__ = ["TRANSLATIONS", "Translator", "onnx_dtype", "translates"]

Translation = Callable[..., Any]
_F = TypeVar("_F", bound=Translation)

TRANSLATIONS: dict[OpOverload, Translation] = {}

_DTYPES = {
    torch.float32: ir.DataType.FLOAT,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.uint8: ir.DataType.UINT8,
    torch.int8: ir.DataType.INT8,
    torch.bool: ir.DataType.BOOL,
}


def translates(*overloads: OpOverload) -> Callable[[_F], _F]:
    """Register a function as the translation of ATen operators.

    It is called with a `Translator` and the operator's own arguments, tensors as `ir.Value`, and
    returns the value of its output, or a tuple of them.
    """

    def register(translation: _F) -> _F:
        for overload in overloads:
            TRANSLATIONS[overload] = translation
        return translation

    return register


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """The ONNX element type for one of torch's.

    Raises:
        ExportError: training graphs hold no such type.
    """
    if dtype not in _DTYPES:
        raise ExportError(
            f"the graph would hold {dtype}, which runtimes of devices do not compute in; "
            "use float32 (for a constant too)"
        )
    return _DTYPES[dtype]


class Translator(Builder):
    """A builder that knows what torch expects of the operator at hand.

    Attributes:
        shape: of the first output in torch.
        dtype: of the first output in torch.
    """

    shape: tuple[int, ...]
    dtype: ir.DataType

    def expect(self, result: torch.Tensor) -> None:
        """Tell the shape and type of the next operator's first output."""
        self.shape = tuple(int(size) for size in result.shape)
        self.dtype = onnx_dtype(result.dtype)

    def typed(self, x: Operand, dtype: ir.DataType | None = None) -> ir.Value:
        """The operand as a value of a type, by default that of the result."""
        dtype = dtype or self.dtype
        return self.cast(x, dtype) if isinstance(x, ir.Value) else self.scalar(x, dtype)

    def arithmetic(self, op_type: str, *operands: Operand) -> ir.Value:
        """An element-wise operator whose operands all have the type of the result."""
        return self.op(op_type, *self.unrepeated([self.typed(x) for x in operands]))

    def comparison(self, op_type: str, x: Operand, y: Operand) -> ir.Value:
        """A comparison of operands in the type that they have in common."""
        tensors = [value for value in (x, y) if isinstance(value, ir.Value)]
        dtypes = [dtype_of(value).numpy() for value in tensors]
        if any(isinstance(v, float) for v in (x, y)) and dtypes[0].kind != "f":
            dtypes = [np.dtype(np.float32)]
        common = ir.DataType.from_numpy(np.result_type(*dtypes))
        if common == ir.DataType.DOUBLE:  # what numpy makes of int64 beside float32
            common = ir.DataType.FLOAT
        values = [self.typed(value, common) for value in (x, y)]
        return self.op(op_type, *values, dtype=ir.DataType.BOOL)

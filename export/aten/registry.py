"""Registry of the translations of ATen operators, and the translator that they are called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
import torch
from torch._ops import OpOverload

from exportloss.errors import ExportError
from exportloss.export.aten.builder import Builder
from exportloss.export.aten.nodes import Operand, dtype_of

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

    The function is called with a `Translator` and the arguments of the operator, in which tensors
    are of type `ir.Value`. It returns the output, or a tuple for several outputs.
    """

    def register(translation: _F) -> _F:
        for overload in overloads:
            TRANSLATIONS[overload] = translation
        return translation

    return register


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    """Return the ONNX element type that corresponds to a torch dtype.

    Raises:
        ExportError: Exported graphs do not use this type.
    """
    if dtype not in _DTYPES:
        raise ExportError(
            f"the graph would contain a tensor of {dtype}, which runtimes on devices do not "
            "compute in; use float32, for constants too"
        )
    return _DTYPES[dtype]


class Translator(Builder):
    """A builder that knows the result torch expects of the operator being translated.

    Attributes:
        shape: Shape of the operator's first output.
        dtype: Element type of the operator's first output.
    """

    shape: tuple[int, ...]
    dtype: ir.DataType

    def expect(self, result: torch.Tensor) -> None:
        """Set the shape and element type of the next operator's first output."""
        self.shape = tuple(int(size) for size in result.shape)
        self.dtype = onnx_dtype(result.dtype)

    def typed(self, x: Operand, dtype: ir.DataType | None = None) -> ir.Value:
        """Return the operand as a value of an element type, by default that of the result."""
        dtype = dtype or self.dtype
        return self.cast(x, dtype) if isinstance(x, ir.Value) else self.scalar(x, dtype)

    def arithmetic(self, op_type: str, *operands: Operand) -> ir.Value:
        """Append an element-wise node, with the operands cast to the element type of the result."""
        return self.op(op_type, *self.unrepeated([self.typed(x) for x in operands]))

    def comparison(self, op_type: str, x: Operand, y: Operand) -> ir.Value:
        """Append a comparison, with both operands cast to their common element type."""
        tensors = [value for value in (x, y) if isinstance(value, ir.Value)]
        dtypes = [dtype_of(value).numpy() for value in tensors]
        if any(isinstance(v, float) for v in (x, y)) and dtypes[0].kind != "f":
            dtypes = [np.dtype(np.float32)]
        common = ir.DataType.from_numpy(np.result_type(*dtypes))
        if common == ir.DataType.DOUBLE:  # numpy's common type of int64 and float32
            common = ir.DataType.FLOAT
        values = [self.typed(value, common) for value in (x, y)]
        return self.op(op_type, *values, dtype=ir.DataType.BOOL)

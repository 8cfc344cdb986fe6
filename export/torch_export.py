"""Export of a torch module to a simplified ONNX graph with fixed shapes and named parameters."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript import opset18
from onnxscript.optimizer import fold_constants
from torch import nn

from exportloss.errors import ExportError, ExportLossError
from exportloss.loss.task_aligned.largest import largest_places

__all__ = ["OPSET", "Signature", "trace_to_onnx"]

# Supported by ONNX Runtime 1.18 and later, TensorRT 10 and onnxruntime-web; 18 is the first opset
# in which ScatterElements has the reduction "max".
OPSET = 18

op: Any = opset18  # its type stubs do not accept values under construction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Signature:
    """Names of the inputs and outputs of a graph, in order."""

    inputs: Sequence[str]
    outputs: Sequence[str]


def trace_to_onnx(
    module: nn.Module,
    example_inputs: tuple[object, ...],
    signature: Signature,
    *,
    state: Mapping[str, str],
    differentiable: bool,
    any_batch: bool = False,
) -> ir.Model:
    """Export a module with its state as named initializers.

    Constants are folded and unused values removed, except for the tensors of the state, which are
    hidden from these passes.

    Args:
        module: Module, exported in its current mode (training or evaluation).
        example_inputs: Positional arguments of its forward, which fix the shapes of the graph.
        signature: Names of the flattened inputs and outputs.
        state: Names in the graph of the parameters and statistics to keep, by name in the module.
        differentiable: Whether a gradient builder takes the graph: `detach` becomes a
            stop-gradient, and operators whose gradients ONNX Runtime lacks are replaced.
        any_batch: Whether the first dimension of the only input is dynamic, under the name `batch`.

    Raises:
        ExportError: torch cannot trace the module, or the graph would differ from it.
    """
    with _quiet():
        try:
            free = ({0: torch.export.Dim.DYNAMIC},) if any_batch else None
            traced = torch.export.export(module, example_inputs, dynamic_shapes=free, strict=False)
            if differentiable:
                _refuse_no_grad(traced.graph_module)
            program = torch.onnx.export(
                traced,
                example_inputs,
                dynamo=True,
                optimize=False,  # its optimizer fuses BatchNormalization into convolutions
                opset_version=OPSET,
                input_names=list(signature.inputs),
                output_names=list(signature.outputs),
                dynamic_shapes=({0: "batch"},) if any_batch else None,
                custom_translation_table=_DIFFERENTIABLE if differentiable else None,
                verbose=False,
            )
        except ExportLossError:
            raise
        except Exception as error:  # any error that the module's own code raises
            raise ExportError(f"torch could not export {type(module).__name__}: {error}") from error
    assert program is not None
    model = program.model
    with _hidden_state(model, state):
        _tidy(model)
    return model


def _tidy(model: ir.Model) -> None:
    fold_constants(model)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.DeduplicateInitializersPass(),
        passes.IdentityEliminationPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.ClearMetadataAndDocStringPass(),
    )(model)


@contextlib.contextmanager
def _hidden_state(model: ir.Model, names: Mapping[str, str]) -> Iterator[None]:
    """Present the state's initializers to passes as inputs, so that none is folded or merged."""
    graph = model.graph
    if missing := sorted(set(names) - set(graph.initializers)):
        raise ExportError(
            f"{len(missing)} of {len(names)} parameters and statistics are not in the exported "
            f"graph, among them {missing[0]!r}; use every one in the module's forward, or remove it"
        )
    values = [graph.initializers.pop(name) for name in names]
    tensors = [value.const_value for value in values]
    for value in values:
        value.const_value = None
    graph.inputs.extend(values)
    yield
    del graph.inputs[len(graph.inputs) - len(values) :]
    for value, tensor, name in zip(values, tensors, names.values(), strict=True):
        value.name, value.const_value = name, tensor
        graph.register_initializer(value)


def _refuse_no_grad(module: torch.fx.GraphModule) -> None:
    """Refuse `no_grad` regions, which the graph would lose: same loss, different gradients."""
    for node in module.graph.nodes:
        if "set_grad_enabled" in str(node.target):
            raise ExportError(
                "the model's forward switches gradients off with torch.no_grad() or "
                "torch.set_grad_enabled(), which an exported graph cannot express; call .detach() "
                "on the tensors that must not receive gradients instead"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and log messages of torch's exporter, which do not concern users."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _stop_gradient(x: Any) -> Any:
    """Stop the gradient by wrapping the tensor in an optional and unwrapping it.

    ONNX has no stop-gradient. ONNX Runtime's gradient builder does not pass through optionals,
    and sessions optimize the pair away.
    """
    return op.OptionalGetElement(op.Optional(x))


def _upsample_nearest(x: Any, output_size: Any, scale_factors: Any = None) -> Any:
    """Repeat rows and columns, since ONNX Runtime has no CPU kernel for the gradient of Resize."""
    batch, channels, height, width = (int(size) for size in x.shape)
    scales = scale_factors or (output_size[0] / height, output_size[1] / width)
    rows, columns = (int(scale) for scale in scales)
    if (rows, columns) != tuple(scales):
        raise ExportError(
            f"nearest upsampling by {tuple(scales)} has no gradient in ONNX Runtime; expected "
            "whole factors"
        )
    unfolded = op.Unsqueeze(x, op.Constant(value_ints=[3, 5]))
    repeated = op.Expand(
        unfolded, op.Constant(value_ints=[batch, channels, height, rows, width, columns])
    )
    return op.Reshape(
        repeated, op.Constant(value_ints=[batch, channels, height * rows, width * columns])
    )


def _largest_places(values: Any, count: int) -> Any:
    """Translate `largest_places`; ONNX Runtime's CPU provider orders equal values as it does."""
    return op.TopK(values, op.Constant(value_ints=[count]))[1]


_DIFFERENTIABLE: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.detach.default: _stop_gradient,
    torch.ops.aten.upsample_nearest2d.vec: _upsample_nearest,
    largest_places._opoverload: _largest_places,
}

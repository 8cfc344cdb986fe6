"""Rules on attributes, constants and shapes, which tables of kernels do not cover.

Sources: the column "Restrictions" of onnx-tensorrt's docs/operators.md, the checks of its parser
(onnxOpCheckers.cpp, onnxOpImporters.cpp, TensorRT 10.15) and the types of its ScatterElements
plug-in; the parser and builder of TensorRT for RTX 1.7.1; `CUDAExecutionProvider::GetCapability` of
ONNX Runtime. The race of ScatterND was measured with ONNX Runtime 1.32.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from enum import IntEnum

import onnx_ir as ir

from exportloss.export.providers.conditions import (
    adds_floats,
    computes_second_input,
    drops,
    exceeds_buffers,
    has_more_indices_than_data,
    has_odd_groups,
    has_output,
    is_asymmetric,
    is_dilated,
    is_long_or_unsorted,
    is_unsupported_resize,
    pools_other_than_2d_or_3d,
    reduces,
)
from exportloss.export.providers.node_facts import attribute, input_at, rank_of, type_name
from exportloss.export.providers.tables import ProviderName

__all__ = ["RULES", "Rule", "Verdict", "remedy_for"]


class Verdict(IntEnum):
    """What a provider does with a node, from best to worst."""

    RUNS = 0
    NOTE = 1  # it runs, with a remark
    FALLBACK = 2  # it runs on the CPU, with copies in both directions
    UNSUPPORTED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A finding that does not follow from the tables.

    Attributes:
        name: Short description.
        providers: Providers that the rule applies to.
        operators: Operators that the rule applies to.
        applies: Condition on a node.
        verdict: What the providers do with such a node.
        why: Reason, in a sentence.
        remedy: Change that avoids the finding.
    """

    name: str
    providers: Sequence[ProviderName]
    operators: Sequence[str]
    applies: Callable[[ir.Node], bool]
    verdict: Verdict = Verdict.UNSUPPORTED
    why: str
    remedy: str


_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
)
_TENSORRT: tuple[ProviderName, ...] = ("tensorrt", "tensorrt-rtx")
_ON_CPU: tuple[ProviderName, ...] = ("cpu", "web")
_ON_WEBGPU: tuple[ProviderName, ...] = ("web",)
_ON_GPU: tuple[ProviderName, ...] = ("cuda", "tensorrt", "tensorrt-rtx")
_WITHOUT_SCATTERS = (
    "export with --for gpu (provider='gpu'), whose loss has no scatter with a reduction"
)

RULES: tuple[Rule, ...] = (
    Rule(
        name="ScatterND with a reduction",
        providers=_ON_CPU,
        operators=("ScatterND",),
        applies=reduces,
        why="ONNX Runtime's CPU kernel has a data race if two indices are equal and there is more "
        "than one thread: results are wrong and vary from run to run",
        remedy="use ScatterElements with the same reduction",
    ),
    Rule(
        name="Split in many parts",
        providers=_ON_WEBGPU,
        operators=("Split",),
        applies=exceeds_buffers,
        verdict=Verdict.NOTE,
        why="with WebGPU, it binds its input and all outputs at once, but an adapter may allow "
        "no more than 8 buffers: the run fails. WebAssembly runs it",
        remedy="replace it with Slices, or with nested Splits of at most 7 parts",
    ),
    Rule(
        name="convolution with 5, 6, 7, 9, ... outputs a group",
        providers=_ON_WEBGPU,
        operators=("Conv",),
        applies=has_odd_groups,
        verdict=Verdict.NOTE,
        why="with WebGPU, onnxruntime-web 1.30 and onnxruntime-ep-webgpu 0.4 silently give wrong "
        "results; 1 to 4 outputs per group and multiples of 4 are right, as is WebAssembly",
        remedy="split it into convolutions with 1 to 4 outputs per group, or a multiple of 4",
    ),
    Rule(
        name="ScatterND with a reduction",
        providers=_TENSORRT,
        operators=("ScatterND",),
        applies=reduces,
        why="TensorRT's parser refuses it",
        remedy="use ScatterElements with the same reduction",
    ),
    Rule(
        name="scattered sums",
        providers=("cuda", "tensorrt"),
        operators=("ScatterND", "ScatterElements"),
        applies=adds_floats,
        verdict=Verdict.NOTE,
        why="floating-point numbers are summed atomically in no fixed order: if two indices are "
        "equal, the last bits may vary from run to run",
        remedy="none needed; if results must repeat bit for bit, use a matrix product",
    ),
    Rule(
        name="ScatterElements with a reduction",
        providers=("tensorrt",),
        operators=("ScatterElements",),
        applies=reduces,
        verdict=Verdict.NOTE,
        why="TensorRT runs it with a plug-in; TensorRT for RTX, which has none, refuses the graph",
        remedy=_WITHOUT_SCATTERS,
    ),
    Rule(
        name="ScatterElements with a reduction",
        providers=("tensorrt-rtx",),
        operators=("ScatterElements",),
        applies=reduces,
        why="TensorRT for RTX has no plug-in for it, and its parser refuses it",
        remedy=_WITHOUT_SCATTERS,
    ),
    Rule(
        name="operators that TensorRT runs by a plug-in",
        providers=("tensorrt-rtx",),
        operators=("DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"),
        applies=lambda _: True,
        why="TensorRT for RTX has neither a plug-in nor a kernel for them",
        remedy="replace it with other operators, or use TensorRT",
    ),
    Rule(
        name="ScatterElements with a reduction and indices that are not int64",
        providers=("tensorrt",),
        operators=("ScatterElements",),
        applies=lambda node: reduces(node) and type_name(input_at(node, 1)) not in (None, "int64"),
        why="TensorRT runs it with its plug-in ScatterElements, which takes int64 indices only",
        remedy="Cast the indices to int64",
    ),
    Rule(
        name="ScatterElements with more indices than data",
        providers=_TENSORRT,
        operators=("ScatterElements", "Scatter"),
        applies=has_more_indices_than_data,
        why="TensorRT's parser requires that no dimension of the indices exceeds the data's",
        remedy="scatter in several parts; with a reduction there is no such limit",
    ),
    Rule(
        name="MaxPool with indices",
        providers=_TENSORRT,
        operators=("MaxPool",),
        applies=has_output(1),
        why="TensorRT's MaxPool returns only the maxima",
        remedy="locate them by comparing the input with the maxima, as exportloss's backward pass "
        "does",
    ),
    Rule(
        name="dilated pooling",
        providers=_TENSORRT,
        operators=("AveragePool", "LpPool", "MaxPool"),
        applies=is_dilated,
        why="TensorRT supports no dilation in pooling",
        remedy="slice the input with a step and take the maximum of the slices",
    ),
    Rule(
        name="pooling over one dimension",
        providers=_TENSORRT,
        operators=("AveragePool", "MaxPool"),
        applies=pools_other_than_2d_or_3d,
        why="TensorRT pools only over two or three dimensions",
        remedy="Reshape to two dimensions, one of size 1",
    ),
    Rule(
        name="BatchNormalization in training mode",
        providers=_TENSORRT,
        operators=("BatchNormalization",),
        applies=lambda node: bool(attribute(node, "training_mode", 0)) or has_output(1)(node),
        why="TensorRT normalizes only with given statistics",
        remedy="compute mean and variance with ReduceMean, as exportloss's training step does",
    ),
    Rule(
        name="LayerNormalization with statistics",
        providers=_TENSORRT,
        operators=("LayerNormalization",),
        applies=has_output(1),
        why="TensorRT returns only the normalized tensor",
        remedy="compute mean and deviation with ReduceMean",
    ),
    Rule(
        name="Dropout in training mode",
        providers=_TENSORRT,
        operators=("Dropout",),
        applies=drops,
        why="TensorRT accepts Dropout only in inference mode, where it has no effect",
        remedy="export without it, or multiply by a mask that is an input",
    ),
    Rule(
        name="axes or depth that are computed",
        providers=_TENSORRT,
        operators=("Squeeze", "Unsqueeze", "CumSum", "OneHot", *_REDUCTIONS),
        applies=computes_second_input,
        why="TensorRT has to know them when it builds the engine",
        remedy="make them constants of the graph",
    ),
    Rule(
        name="Resize in a mode that TensorRT lacks",
        providers=_TENSORRT,
        operators=("Resize",),
        applies=is_unsupported_resize,
        why="TensorRT's Resize is nearest or linear, stretches, and has no antialiasing",
        remedy="replace it with products with constant matrices",
    ),
    Rule(
        name="TopK that is long or unsorted",
        providers=_TENSORRT,
        operators=("TopK",),
        applies=is_long_or_unsorted,
        why="TensorRT requires sorted results, and fewer than 3840 of them, a constant number",
        remedy="take fewer candidates",
    ),
    Rule(
        name="grids that are not 4D",
        providers=_TENSORRT,
        operators=("GridSample",),
        applies=lambda node: rank_of(node) not in (None, 4),
        why="TensorRT's GridSample takes only 4D input",
        remedy="Reshape to 4D",
    ),
    Rule(
        name="ConvTranspose with uneven padding",
        providers=("cuda",),
        operators=("ConvTranspose",),
        applies=is_asymmetric,
        verdict=Verdict.FALLBACK,
        why="cuDNN pads both sides equally; ONNX Runtime runs other nodes on the CPU",
        remedy="pad evenly and crop with Slice",
    ),
    Rule(
        name="shape or path that depends on data",
        providers=_ON_GPU,
        operators=("Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"),
        applies=lambda _: True,
        verdict=Verdict.NOTE,
        why="the host waits for the device, memory is not planned ahead, and a CUDA graph cannot "
        "capture it",
        remedy="use masks and fixed shapes instead",
    ),
)

_REMEDIES = {
    "Atan": "replace it with other operators: a polynomial after reducing the argument, as in "
    "exportloss's loss",
    "Clip": "use Max and Min",
    "NonZero": "keep the shape and use the condition as a mask in Where",
    "Pad": "Concat with constants, or pad in float32 and Cast back",
}


def remedy_for(operator: str, types: Sequence[str]) -> str:
    """Return what to do if there is no kernel for an operator, or none for its types."""
    if "float64" in types:
        return "export in float32"
    if operator in _REMEDIES:
        return _REMEDIES[operator]
    if types:
        return "Cast to a type that it takes"
    return "replace it with other operators"

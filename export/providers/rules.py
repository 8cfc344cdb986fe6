"""What providers do with a node beyond having a kernel: attributes, constants and shapes.

Sources: the column "Restrictions" of onnx-tensorrt's docs/operators.md and the checks of its parser
(onnxOpCheckers.cpp, onnxOpImporters.cpp, TensorRT 10.15) with the types of its ScatterElements
plugin; the parser and builder of TensorRT for RTX 1.7.1;
`CUDAExecutionProvider::GetCapability` of ONNX Runtime; the race of ScatterND was measured on ONNX
Runtime 1.32.0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from enum import IntEnum

import onnx_ir as ir

from exportloss.export.providers.node_facts import (
    array_of,
    attribute,
    input_at,
    is_constant,
    rank_of,
    shape_at,
    type_name,
)
from exportloss.export.providers.tables import ProviderName

__all__ = ["RULES", "Rule", "Verdict", "remedy_for"]


class Verdict(IntEnum):
    """What becomes of a node, from good to bad."""

    RUNS = 0
    NOTE = 1  # it runs; something is to be known about it
    FALLBACK = 2  # on the CPU, with copies to it and back
    UNSUPPORTED = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """A trouble that is not in the tables.

    Attributes:
        name: what is wrong, in a few words.
        providers: that have the trouble.
        operators: it is met in.
        applies: whether a node has it.
        verdict: what becomes of such a node.
        why: what the provider does.
        remedy: what to do about it.
    """

    name: str
    providers: Sequence[ProviderName]
    operators: Sequence[str]
    applies: Callable[[ir.Node], bool]
    verdict: Verdict = Verdict.UNSUPPORTED
    why: str
    remedy: str


def _computes_second_input(node: ir.Node) -> bool:
    value = input_at(node, 1)
    return value is not None and not is_constant(value)


def _reduces(node: ir.Node) -> bool:
    return bool(attribute(node, "reduction", "none") != "none")


def _adds_floats(node: ir.Node) -> bool:
    is_float = (type_name(input_at(node, 0)) or "").startswith(("float", "bfloat"))
    return is_float and attribute(node, "reduction", "none") in ("add", "mul")


def _has_output(first: int) -> Callable[[ir.Node], bool]:
    """Whether a node gives an output from a place on."""
    return lambda node: any(value.name for value in node.outputs[first:])


def _is_dilated(node: ir.Node) -> bool:
    return any(step != 1 for step in attribute(node, "dilations", ()))


def _is_not_2d_or_3d(node: ir.Node) -> bool:
    return rank_of(node) not in (None, 4, 5)


def _is_asymmetric(node: ir.Node) -> bool:
    pads = list(attribute(node, "pads", ()))
    half = len(pads) // 2
    automatic = attribute(node, "auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    return automatic or pads[:half] != pads[half:]


def _scatters_more_than_there_is(node: ir.Node) -> bool:
    data, indices = shape_at(node, 0), shape_at(node, 1)
    if _reduces(node) or data is None or indices is None:
        return False
    return any(i > d for i, d in zip(indices, data, strict=True))


def _is_odd_resize(node: ir.Node) -> bool:
    allowed = {
        "mode": ("nearest", ("nearest", "linear")),
        "coordinate_transformation_mode": (
            "half_pixel",
            (
                "half_pixel",
                "pytorch_half_pixel",
                "tf_half_pixel_for_nn",
                "asymmetric",
                "align_corners",
            ),
        ),
        "antialias": (0, (0,)),
        "keep_aspect_ratio_policy": ("stretch", ("stretch",)),
    }
    return any(
        attribute(node, name, default) not in values for name, (default, values) in allowed.items()
    )


def _is_long_or_unsorted(node: ir.Node) -> bool:
    count = array_of(input_at(node, 1))
    longest = math.inf if count is None else count.max(initial=0)
    return bool(attribute(node, "sorted", 1) != 1 or longest >= 3840)


def _drops(node: ir.Node) -> bool:
    if input_at(node, 2) is None:
        return False
    flag = array_of(input_at(node, 2))
    return flag is None or bool(flag.any())


def _binds_many(node: ir.Node) -> bool:
    return len(node.outputs) > 7


def _has_odd_groups(node: ir.Node) -> bool:
    """Whether a convolution gives more than 4 outputs a group, and not a multiple of 4."""
    weight, groups = shape_at(node, 1), attribute(node, "group", 1)
    outputs = 0 if weight is None else weight[0] // groups
    return groups > 1 and outputs > 4 and outputs % 4 != 0


_REDUCTIONS = tuple(
    f"Reduce{kind}" for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
)
_TENSORRT: tuple[ProviderName, ...] = ("tensorrt", "tensorrt-rtx")
_ON_CPU: tuple[ProviderName, ...] = ("cpu", "web")
_ON_WEBGPU: tuple[ProviderName, ...] = ("web",)
_ON_GPU: tuple[ProviderName, ...] = ("cuda", "tensorrt", "tensorrt-rtx")
_WITHOUT_SCATTERS = "export with --for gpu (provider='gpu'), whose loss has no scatter that reduces"

RULES: tuple[Rule, ...] = (
    Rule(
        name="ScatterND with a reduction",
        providers=_ON_CPU,
        operators=("ScatterND",),
        applies=_reduces,
        why="ONNX Runtime's CPU kernel races where two indices are equal and there is more than "
        "one thread: results are wrong and change from run to run",
        remedy="use ScatterElements with the same reduction",
    ),
    Rule(
        name="Split in many parts",
        providers=_ON_WEBGPU,
        operators=("Split",),
        applies=_binds_many,
        verdict=Verdict.NOTE,
        why="with WebGPU, it binds its input and all outputs at once, and an adapter may bind no "
        "more than 8 buffers: the run fails. WebAssembly takes it",
        remedy="write it as Slices, or as Splits of Splits, of 7 parts at most",
    ),
    Rule(
        name="convolution with 5, 6, 7, 9, ... outputs a group",
        providers=_ON_WEBGPU,
        operators=("Conv",),
        applies=_has_odd_groups,
        verdict=Verdict.NOTE,
        why="with WebGPU, onnxruntime-web 1.30 and onnxruntime-ep-webgpu 0.4 compute it wrongly "
        "and say nothing; 1 to 4 outputs a group and multiples of 4 are right, as is WebAssembly",
        remedy="part the outputs of each group into convolutions of such numbers",
    ),
    Rule(
        name="ScatterND with a reduction",
        providers=_TENSORRT,
        operators=("ScatterND",),
        applies=_reduces,
        why="TensorRT's parser refuses it",
        remedy="use ScatterElements with the same reduction",
    ),
    Rule(
        name="scattered sums",
        providers=("cuda", "tensorrt"),
        operators=("ScatterND", "ScatterElements"),
        applies=_adds_floats,
        verdict=Verdict.NOTE,
        why="floats are summed by atomic operations in no fixed order: the last bits may differ "
        "from run to run where two indices are equal",
        remedy="nothing, or write the sum as a matrix product where bits must repeat",
    ),
    Rule(
        name="ScatterElements with a reduction",
        providers=("tensorrt",),
        operators=("ScatterElements",),
        applies=_reduces,
        verdict=Verdict.NOTE,
        why="TensorRT runs it by its plug-in; TensorRT for RTX, which has none, refuses the graph",
        remedy=_WITHOUT_SCATTERS,
    ),
    Rule(
        name="ScatterElements with a reduction",
        providers=("tensorrt-rtx",),
        operators=("ScatterElements",),
        applies=_reduces,
        why="TensorRT for RTX has no plug-in for it, and its parser refuses it",
        remedy=_WITHOUT_SCATTERS,
    ),
    Rule(
        name="operators that TensorRT runs by a plug-in",
        providers=("tensorrt-rtx",),
        operators=("DeformConv", "NonMaxSuppression", "NonZero", "RoiAlign"),
        applies=lambda _: True,
        why="TensorRT for RTX has neither a plug-in nor a kernel for them",
        remedy="write it with other operators, or use TensorRT",
    ),
    Rule(
        name="ScatterElements with a reduction and indices that are not int64",
        providers=("tensorrt",),
        operators=("ScatterElements",),
        applies=lambda node: _reduces(node) and type_name(input_at(node, 1)) not in (None, "int64"),
        why="TensorRT runs it by its plugin ScatterElements, which takes int64 indices only",
        remedy="Cast the indices to int64",
    ),
    Rule(
        name="ScatterElements with more indices than data",
        providers=_TENSORRT,
        operators=("ScatterElements", "Scatter"),
        applies=_scatters_more_than_there_is,
        why="TensorRT's parser wants no dimension of the indices to be larger than the data's",
        remedy="write the indices in parts; with a reduction there is no such limit",
    ),
    Rule(
        name="MaxPool with indices",
        providers=_TENSORRT,
        operators=("MaxPool",),
        applies=_has_output(1),
        why="TensorRT's MaxPool gives the maxima only",
        remedy="find the places by comparing with the maxima, as exportloss's backward pass does",
    ),
    Rule(
        name="dilated pooling",
        providers=_TENSORRT,
        operators=("AveragePool", "LpPool", "MaxPool"),
        applies=_is_dilated,
        why="TensorRT pools without dilation only",
        remedy="slice the input with a step and take the maximum of the slices",
    ),
    Rule(
        name="pooling over one dimension",
        providers=_TENSORRT,
        operators=("AveragePool", "MaxPool"),
        applies=_is_not_2d_or_3d,
        why="TensorRT pools over two or three dimensions only",
        remedy="Reshape to two dimensions, one of size 1",
    ),
    Rule(
        name="BatchNormalization in training mode",
        providers=_TENSORRT,
        operators=("BatchNormalization",),
        applies=lambda node: bool(attribute(node, "training_mode", 0)) or _has_output(1)(node),
        why="TensorRT normalizes with given statistics only",
        remedy="compute mean and variance with ReduceMean, as exportloss's training step does",
    ),
    Rule(
        name="LayerNormalization with statistics",
        providers=_TENSORRT,
        operators=("LayerNormalization",),
        applies=_has_output(1),
        why="TensorRT gives the normalized tensor only",
        remedy="compute mean and deviation with ReduceMean",
    ),
    Rule(
        name="Dropout in training mode",
        providers=_TENSORRT,
        operators=("Dropout",),
        applies=_drops,
        why="TensorRT takes Dropout only where it does nothing",
        remedy="export without it, or multiply with a mask that is an input",
    ),
    Rule(
        name="axes or depth that are computed",
        providers=_TENSORRT,
        operators=("Squeeze", "Unsqueeze", "CumSum", "OneHot", *_REDUCTIONS),
        applies=_computes_second_input,
        why="TensorRT needs them when it builds the engine",
        remedy="make them constants of the graph",
    ),
    Rule(
        name="Resize in a mode that TensorRT lacks",
        providers=_TENSORRT,
        operators=("Resize",),
        applies=_is_odd_resize,
        why="TensorRT resizes by nearest or linear, stretching, without antialiasing",
        remedy="write it as a product with constant matrices",
    ),
    Rule(
        name="TopK that is long or unsorted",
        providers=_TENSORRT,
        operators=("TopK",),
        applies=_is_long_or_unsorted,
        why="TensorRT wants sorted results and fewer than 3840 of them, known beforehand",
        remedy="take fewer candidates",
    ),
    Rule(
        name="grids that are not 4D",
        providers=_TENSORRT,
        operators=("GridSample",),
        applies=lambda node: rank_of(node) not in (None, 4),
        why="TensorRT's GridSample takes 4D input only",
        remedy="Reshape to 4D",
    ),
    Rule(
        name="ConvTranspose with uneven padding",
        providers=("cuda",),
        operators=("ConvTranspose",),
        applies=_is_asymmetric,
        verdict=Verdict.FALLBACK,
        why="cuDNN pads both sides alike; ONNX Runtime leaves other nodes to the CPU",
        remedy="pad evenly and cut with Slice",
    ),
    Rule(
        name="shape or path that depends on data",
        providers=_ON_GPU,
        operators=("Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"),
        applies=lambda _: True,
        verdict=Verdict.NOTE,
        why="the host waits for the device, memory is not planned ahead, and a CUDA graph cannot "
        "capture it",
        remedy="write it with masks and fixed shapes",
    ),
)

_REMEDIES = {
    "Atan": "write it with other operators: a polynomial after reducing the argument, as "
    "exportloss's loss does",
    "Clip": "use Max and Min",
    "NonZero": "keep the shape and use the condition as a mask, with Where",
    "Pad": "Concat with constants, or pad in float32 and Cast back",
}


def remedy_for(operator: str, types: Sequence[str]) -> str:
    """What to do where there is no kernel for an operator, or none for the types."""
    if "float64" in types:
        return "export in float32"
    if operator in _REMEDIES:
        return _REMEDIES[operator]
    if types:
        return "Cast to a type that it takes"
    return "write it with other operators"

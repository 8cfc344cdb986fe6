"""Small graphs that each cause a known finding on a provider, and counterparts that do not."""

from __future__ import annotations

import dataclasses

import onnx
from onnx import parser

from exportloss.export.providers.rules import Verdict
from exportloss.export.providers.tables import ProviderName

__all__ = ["CASES", "Case", "graph"]

NOTE, FALLBACK, UNSUPPORTED = Verdict.NOTE, Verdict.FALLBACK, Verdict.UNSUPPORTED


@dataclasses.dataclass(frozen=True)
class Case:
    """A finding, a graph for which it is the worst, and a similar graph without it.

    Attributes:
        name: Name of the finding.
        provider: Provider that it concerns.
        verdict: Its verdict.
        bad: Text of a graph with the finding.
        good: Text of a similar graph without it; None if there is none.
    """

    name: str
    provider: ProviderName
    verdict: Verdict
    bad: str
    good: str | None


def graph(text: str, *, opset: int = 18, imports: str = "") -> onnx.ModelProto:
    """Return the graph of a text `(inputs) => (outputs) { nodes }`."""
    return parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}{imports}]> g {text}')


def unary(operator: str, types: str = "float") -> str:
    return f"({types}[4] x) => ({types}[4] y) {{ y = {operator}(x) }}"


def pad(types: str) -> str:
    return f"({types}[4] x) => ({types}[6] y) <int64[2] p = {{1, 1}}> {{ y = Pad(x, p) }}"


def scatter(reduction: str, *, rows: int = 2, indices: str = "int64", types: str = "float") -> str:
    return f"""({types}[4,2] x, {indices}[{rows},2] i, {types}[{rows},2] u) => ({types}[4,2] y)
    {{ y = ScatterElements<reduction = "{reduction}">(x, i, u) }}"""


def scatter_rows(reduction: str, types: str = "float") -> str:
    return f"""({types}[4,2] x, int64[3,1] i, {types}[3,2] u) => ({types}[4,2] y)
    {{ y = ScatterND<reduction = "{reduction}">(x, i, u) }}"""


def pool(attributes: str = "", *, indices: bool = False, shape: str = "1,1,4,4") -> str:
    kernel = ", ".join(["1"] * (shape.count(",") - 1))
    more = f", int64[{shape}] i" if indices else ""
    return f"""(float[{shape}] x) => (float[{shape}] y{more})
    {{ y{", i" if indices else ""} = MaxPool<kernel_shape = [{kernel}]{attributes}>(x) }}"""


def split(parts: int) -> str:
    outputs = [f"y{part}" for part in range(parts)]
    return f"""(float[{parts}] x) => ({", ".join(f"float[1] {y}" for y in outputs)})
    {{ {", ".join(outputs)} = Split<axis = 0, num_outputs = {parts}>(x) }}"""


def groups(outputs: int) -> str:
    return f"""(float[1,2,4,4] x, float[{2 * outputs},1,1,1] w) => (float[1,{2 * outputs},4,4] y)
    {{ y = Conv<group = 2>(x, w) }}"""


def deconvolution(pads: str, width: int) -> str:
    return f"""(float[1,1,4,4] x, float[1,1,3,3] w) => (float[1,1,6,{width}] y)
    {{ y = ConvTranspose<pads = [{pads}]>(x, w) }}"""


def normalization(mode: int) -> str:
    more = (", float[2] m, float[2] v", ", m, v") if mode else ("", "")
    return f"""(float[1,2,4,4] x, float[2] s) => (float[1,2,4,4] y{more[0]})
    {{ y{more[1]} = BatchNormalization<training_mode = {mode}>(x, s, s, s, s) }}"""


def layer_normalization(*, mean: bool) -> str:
    more = (", float[2,1] m", ", m") if mean else ("", "")
    return f"""(float[2,4] x, float[4] s) => (float[2,4] y{more[0]})
    {{ y{more[1]} = LayerNormalization(x, s) }}"""


def dropout(training: int) -> str:
    return f"""(float[4] x) => (float[4] y) <float r = {{0.5}}, bool t = {{{training}}}>
    {{ y = Dropout(x, r, t) }}"""


def cumulative(*, computed: bool) -> str:
    axis = ("int64 a, ", "") if computed else ("", "<int64 a = {0}>")
    return f"({axis[0]}float[4] x) => (float[4] y) {axis[1]} {{ y = CumSum(x, a) }}"


def resize(mode: str) -> str:
    return f"""(float[1,1,4,4] x) => (float[1,1,8,8] y) <float[4] s = {{1, 1, 2, 2}}>
    {{ y = Resize<mode = "{mode}">(x, , s) }}"""


def top(count: int) -> str:
    return f"""(float[9000] x) => (float[{count}] y, int64[{count}] i) <int64[1] k = {{{count}}}>
    {{ y, i = TopK(x, k) }}"""


def grid(sizes: str, dims: int) -> str:
    return f"""(float[1,1,{sizes}] x, float[1,{sizes},{dims}] g) => (float[1,1,{sizes}] y)
    {{ y = GridSample(x, g) }}"""


def branches(operator: str) -> str:
    return f"""(bool c, float[4] x) => (float[4] y) {{ y = If (c) <
        then_branch = a () => (float[4] t) {{ t = {operator}(x) }},
        else_branch = b () => (float[4] e) {{ e = Neg(x) }}> }}"""


def nonzero(types: str) -> str:
    return f"({types}[4] x) => (int64[1,N] y) {{ y = NonZero(x) }}"


def clip(types: str) -> str:
    return f"({types}[4] x, {types} a) => ({types}[4] y) {{ y = Clip(x, a) }}"


def equal(types: str) -> str:
    return f"({types}[4] x) => (bool[4] y) {{ y = Equal(x, x) }}"


def bytes_inside(first: str) -> str:
    return f"(uint8[4] x) => (float[4] y) {{ z = {first}(x) y = Cast<to = 1>(z) }}"


SCATTER = "ScatterElements with a reduction"
MORE_INDICES = "ScatterElements with more indices than data"
PLUGIN = "operators that TensorRT runs by a plug-in"

_LISTED = (
    # Operators and types that the tables lack.
    Case("Atan", "cuda", FALLBACK, unary("Atan"), unary("Tanh")),
    Case("Atan", "cuda", FALLBACK, branches("Atan"), None),
    Case("Pad of int64", "cuda", FALLBACK, pad("int64"), pad("float")),
    Case("Pad of int32", "cuda", FALLBACK, pad("int32"), pad("bool")),
    Case("Clip of int32", "cuda", FALLBACK, clip("int32"), clip("int64")),
    Case("Clip of int64", "tensorrt", UNSUPPORTED, clip("int64"), clip("float")),
    Case("Exp of float64", "tensorrt", UNSUPPORTED, unary("Exp", "double"), unary("Exp")),
    Case("NonZero of bool", "tensorrt", UNSUPPORTED, nonzero("bool"), None),
    Case("Equal of bool", "tensorrt", UNSUPPORTED, equal("bool"), equal("int64")),
    Case("Sqrt of bfloat16", "cpu", UNSUPPORTED, unary("Sqrt", "bfloat16"), unary("Sqrt")),
    Case("Sqrt of bfloat16", "web", UNSUPPORTED, unary("Sqrt", "bfloat16"), unary("Sqrt")),
    Case("Unique", "tensorrt", UNSUPPORTED, unary("Unique"), unary("Identity")),
    # Rules.
    Case("uint8 inside the graph", "tensorrt", UNSUPPORTED, bytes_inside("Cast<to = 2>"), None),
    Case(
        "ScatterND with a reduction", "cpu", UNSUPPORTED, scatter_rows("add"), scatter_rows("none")
    ),
    Case(
        "ScatterND with a reduction", "web", UNSUPPORTED, scatter_rows("max"), scatter_rows("none")
    ),
    Case(
        "ScatterND with a reduction",
        "tensorrt",
        UNSUPPORTED,
        scatter_rows("max"),
        scatter_rows("none"),
    ),
    Case("scattered sums", "cuda", NOTE, scatter_rows("add"), scatter_rows("max")),
    Case(
        "scattered sums",
        "tensorrt",
        NOTE,
        scatter("add"),
        scatter("add", types="int64"),
    ),
    Case(SCATTER, "tensorrt", NOTE, scatter("max"), scatter("none")),
    Case(SCATTER, "tensorrt-rtx", UNSUPPORTED, scatter("add"), scatter("none")),
    Case(PLUGIN, "tensorrt-rtx", UNSUPPORTED, nonzero("float"), unary("Neg")),
    Case(
        "ScatterElements with a reduction and indices that are not int64",
        "tensorrt",
        UNSUPPORTED,
        scatter("max", indices="int32"),
        scatter("max"),
    ),
    Case(
        MORE_INDICES,
        "tensorrt",
        UNSUPPORTED,
        scatter("none", rows=5),
        scatter("max", rows=5),
    ),
    Case(MORE_INDICES, "tensorrt-rtx", UNSUPPORTED, scatter("none", rows=5), scatter("none")),
    Case("MaxPool with indices", "tensorrt", UNSUPPORTED, pool(indices=True), pool()),
    Case("dilated pooling", "tensorrt", UNSUPPORTED, pool(", dilations = [1, 2]"), pool()),
    Case("pooling over one dimension", "tensorrt", UNSUPPORTED, pool(shape="1,1,4"), pool()),
    Case(
        "BatchNormalization in training mode",
        "tensorrt",
        UNSUPPORTED,
        normalization(1),
        normalization(0),
    ),
    Case(
        "LayerNormalization with statistics",
        "tensorrt",
        UNSUPPORTED,
        layer_normalization(mean=True),
        layer_normalization(mean=False),
    ),
    Case("Dropout in training mode", "tensorrt", UNSUPPORTED, dropout(1), dropout(0)),
    Case(
        "axes or depth that are computed",
        "tensorrt",
        UNSUPPORTED,
        cumulative(computed=True),
        cumulative(computed=False),
    ),
    Case(
        "Resize in a mode that TensorRT lacks",
        "tensorrt",
        UNSUPPORTED,
        resize("cubic"),
        resize("linear"),
    ),
    Case("TopK that is long or unsorted", "tensorrt", UNSUPPORTED, top(3840), top(3839)),
    Case("grids that are not 4D", "tensorrt", UNSUPPORTED, grid("2,4,4", 3), grid("4,4", 2)),
    Case(
        "ConvTranspose with uneven padding",
        "cuda",
        FALLBACK,
        deconvolution("0, 0, 0, 1", 5),
        deconvolution("0, 1, 0, 1", 4),
    ),
    Case("shape or path that depends on data", "cuda", NOTE, branches("Neg"), unary("Neg")),
    Case("shape or path that depends on data", "tensorrt", NOTE, branches("Neg"), unary("Neg")),
    Case("Split in many parts", "web", NOTE, split(8), split(7)),
    *(
        Case(
            "convolution with 5, 6, 7, 9, ... outputs a group",
            "web",
            NOTE,
            groups(bad),
            groups(good),
        )
        for bad, good in ((5, 4), (9, 8), (13, 12))
    ),
    # Findings on the graph as a whole.
    Case(
        "dynamic shapes",
        "tensorrt",
        UNSUPPORTED,
        "(float[N] x) => (float[N] y) { y = Neg(x) }",
        unary("Neg"),
    ),
    Case(
        "dynamic shapes", "cuda", NOTE, "(float[N] x) => (float[N] y) { y = Neg(x) }", unary("Neg")
    ),
    Case("WebGPU lacks operators", "web", NOTE, unary("Round"), unary("Floor")),
)

# The same applies to TensorRT for RTX, except for scatters with a reduction.
_RTX = tuple(
    dataclasses.replace(case, provider="tensorrt-rtx")
    for case in _LISTED
    if case.provider == "tensorrt" and "scattered" not in case.name and "Elements" not in case.name
)

CASES = (*_LISTED, *_RTX)

"""Translate a traced graph of ATen operators to ONNX, operator by operator."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from exportloss.errors import ExportError
from exportloss.export.aten import elementwise as aten_elementwise
from exportloss.export.aten import indexing as aten_indexing
from exportloss.export.aten import max_pool as aten_max_pool
from exportloss.export.aten import norms as aten_norms
from exportloss.export.aten import ordering as aten_ordering
from exportloss.export.aten import reductions as aten_reductions
from exportloss.export.aten import resampling as aten_resampling
from exportloss.export.aten import shapes as aten_shapes
from exportloss.export.aten.branches import branch_on_conditions
from exportloss.export.aten.convolutions import convolution as aten_convolution
from exportloss.export.aten.forms import Forms
from exportloss.export.aten.losses import map_gradient as map_gradient_graph
from exportloss.export.aten.losses import task_aligned as task_aligned_graph
from exportloss.export.aten.registry import TRANSLATIONS, Translator, onnx_dtype
from exportloss.export.aten.tracing import MODULE, trace
from exportloss.export.torch_export import OPSET
from exportloss.runtime.artifact.manifest import StepProvider

__all__ = ["IR_VERSION", "to_onnx", "translate"]

# Importing these modules registers their translations.
_THEMES = (
    aten_convolution,
    aten_elementwise,
    aten_indexing,
    aten_max_pool,
    aten_norms,
    aten_ordering,
    aten_reductions,
    aten_resampling,
    aten_shapes,
    map_gradient_graph,
    task_aligned_graph,
)

IR_VERSION = 8  # the first for opset 18
BFLOAT16_VERSIONS = (22, 10)  # first opset whose Conv takes bfloat16, and its IR version

# Elements up to which a tensor that depends on no input is always computed at export time. A larger
# one is computed only if it is no larger than its largest operand, or the file would grow.
_LARGEST_FOLDED = 4096


def to_onnx(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    example: dict[str, Tensor],
    *,
    name: str,
    modules: Mapping[str, nn.Module] | None = None,
    repeatable: bool = True,
    provider: StepProvider = "any",
    forms: Forms | None = None,
) -> ir.Model:
    """Export a function of named tensors, including the gradients it computes, as an ONNX graph.

    Args:
        function: Pure function from named inputs to named outputs; the graph has the same names.
        example: Example inputs in the order of the graph's, with their shapes and element types.
        name: Name of the graph.
        modules: Modules that the function calls, by the prefix of their submodules' names. Nodes
            are named after the submodules, and initializers after their parameters and buffers.
        repeatable: Whether the graph must give the same bits with one thread and with two in ONNX
            Runtime, which is slightly slower.
        provider: Target of the graph: "any" runtime; ONNX Runtime's "cpu" provider only, which has
            operators of its own; "openvino"; or a "gpu", which is faster with other operators.
        forms: Forms of operators to write, where several compute the same; default the plain ones.

    Raises:
        ExportError: The function cannot be traced, or an operator has no translation.
    """
    outputs: list[str] = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        results = function(dict(zip(example, tensors, strict=True)))
        outputs[:] = results
        return tuple(results.values())

    traced = trace(flat, tuple(example.values()), modules=modules)
    constants = {
        id(tensor): ".".join(filter(None, (prefix, path)))
        for prefix, module in (modules or {}).items()
        for path, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    return translate(
        traced,
        inputs=list(example),
        outputs=outputs,
        constants=constants,
        name=name,
        repeatable=repeatable,
        provider=provider,
        forms=forms,
    )


def translate(
    traced: fx.GraphModule,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    constants: Mapping[int, str] | None = None,
    name: str,
    repeatable: bool = True,
    provider: StepProvider = "any",
    forms: Forms | None = None,
) -> ir.Model:
    """Translate a traced graph to `ai.onnx` operators with static shapes.

    Args:
        traced: Graph from `exportloss.export.aten.tracing.trace`.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
        constants: Names of tensors that may become initializers, by the tensors' `id`.
        name: Name of the graph.
        repeatable: See `to_onnx`.
        provider: See `to_onnx`.
        forms: See `to_onnx`.

    Raises:
        ExportError: An operator has no translation. The message names the operator and its module.
    """
    t = Translator(repeatable=repeatable, provider=provider, forms=forms)
    values = _Values(t, traced, constants or {})
    live = _live_nodes(traced.graph)
    graph_inputs: list[ir.Value] = []
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            graph_inputs.append(_input(node, inputs[len(graph_inputs)]))
            values.set(node, graph_inputs[-1])
        elif node in live and node.op == "get_attr":
            values.fold(node, getattr(traced, node.target))
        elif node in live and node.op == "call_function" and not values.try_to_fold(node):
            values.set(node, _translate_node(t, values, node))
    t.scope = ""
    results = []
    for node, output_name in zip(_returned(traced.graph), outputs, strict=True):
        # A value can be neither an input and an output nor two outputs. But a large vector that
        # the graph itself reads as well should not be there twice.
        value = values.get(node)
        producer = value.producer()
        is_read = producer is not None and producer.op_type == "Concat" and value.uses()
        results.append(value if is_read else t.op("Identity", value))
        results[-1].name = output_name
    if t.forms.branch:
        branch_on_conditions(t)
    has_bfloat16 = any(ir.DataType.BFLOAT16 in (v.dtype for v in n.outputs) for n in t.nodes)
    opset, ir_version = BFLOAT16_VERSIONS if has_bfloat16 else (OPSET, IR_VERSION)
    graph = ir.Graph(
        graph_inputs,
        results,
        nodes=t.nodes,
        initializers=t.constants,
        opset_imports={"": opset},
        name=name,
    )
    graph.sort()  # stable: only nodes out of order move
    model = ir.Model(graph, ir_version=ir_version, producer_name="exportloss")
    passes.RemoveUnusedNodesPass()(model)
    return model


class _Values:
    """Values of traced nodes: values of the graph, or tensors known at export time."""

    def __init__(self, t: Translator, traced: fx.GraphModule, names: Mapping[int, str]) -> None:
        self._translator = t
        self._values: dict[fx.Node, Any] = {}
        self._known: dict[fx.Node, Any] = {}
        self._names = names

    def set(self, node: fx.Node, value: Any) -> None:
        self._values[node] = value

    def fold(self, node: fx.Node, value: Any) -> None:
        self._known[node] = value

    def get(self, node: fx.Node) -> Any:
        if node not in self._values:
            tensor = self._known[node]
            dtype = onnx_dtype(tensor.dtype)  # raises for types that a graph must not contain
            array = tensor.detach().cpu()
            if dtype == ir.DataType.BFLOAT16:  # numpy lacks it
                array = array.float()
            self._values[node] = self._translator.constant(
                array.numpy().astype(dtype.numpy(), copy=False), name=self._names.get(id(tensor))
            )
        return self._values[node]

    def try_to_fold(self, node: fx.Node) -> bool:
        """Compute a node now if its operands are known and its result is not too large."""
        arguments = node.all_input_nodes
        if any(used not in self._known for used in arguments) or _is_random(node):
            return False
        result = node.meta.get("val")
        if isinstance(result, Tensor):
            known = [self._known[used] for used in arguments]
            sizes = [tensor.numel() for tensor in known if isinstance(tensor, Tensor)]
            if result.numel() > max(_LARGEST_FOLDED, *sizes, 0):
                return False
        with torch.no_grad():
            self._known[node] = node.target(  # type: ignore[operator]
                *fx.node.map_arg(node.args, self._known.__getitem__),
                **fx.node.map_arg(node.kwargs, self._known.__getitem__),
            )
        return True


def _translate_node(t: Translator, values: _Values, node: fx.Node) -> Any:
    t.scope = node.meta.get(MODULE, "")
    if node.target is operator.getitem:
        return values.get(node.args[0])[node.args[1]]  # type: ignore[arg-type]
    known = isinstance(node.target, OpOverload) and node.target in TRANSLATIONS
    translation = TRANSLATIONS[node.target] if known else None  # type: ignore[index]
    if translation is None:
        raise ExportError(
            f"{node.target} from {_origin(node)} has no translation to ONNX; replace it with "
            "operators that have one"
        )
    try:
        t.expect(_first_result(node))
        return translation(
            t,
            *fx.node.map_arg(node.args, values.get),
            **fx.node.map_arg(node.kwargs, values.get),
        )
    except ExportError as error:
        raise ExportError(f"{node.target} from {_origin(node)}: {error}") from error


def _origin(node: fx.Node) -> str:
    name = node.meta.get(MODULE)
    return f"module {name!r}" if name else "code outside the model"


def _first_result(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    return value if isinstance(value, Tensor) else next(v for v in value if v is not None)


def _is_random(node: fx.Node) -> bool:
    return (
        isinstance(node.target, OpOverload)
        and torch.Tag.nondeterministic_seeded in node.target.tags
    )


def _live_nodes(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that an output depends on; nodes of a trace have no side effects."""
    live: set[fx.Node] = set()
    waiting = list(_returned(graph))
    while waiting:
        node = waiting.pop()
        if node not in live:
            live.add(node)
            waiting.extend(node.all_input_nodes)
    return live


def _returned(graph: fx.Graph) -> Iterator[fx.Node]:
    (output,) = graph.find_nodes(op="output")
    yield from output.args[0]


def _input(node: fx.Node, name: str) -> ir.Value:
    tensor = node.meta["val"]
    return ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(onnx_dtype(tensor.dtype)),
    )

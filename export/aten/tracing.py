"""Trace a function with its gradients inside to one graph of ATen operators."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx
from torch.utils._pytree import tree_leaves

from exportloss.errors import ExportError

__all__ = ["MODULE", "region", "trace"]

aten = torch.ops.aten

# Key of a node's meta: the path of the module whose forward the node belongs to.
MODULE = "exportloss_module"

# What torch itself knows to write in simpler operators, and no detector spends its time in.
_DECOMPOSED = (
    aten.addcdiv,
    aten.addcmul,
    aten.celu,
    aten.elu,
    aten.elu_backward,
    aten.gelu,
    aten.gelu_backward,
    aten.glu,
    aten.glu_backward,
    aten.hardsigmoid,
    aten.hardsigmoid_backward,
    aten.hardswish,
    aten.hardswish_backward,
    aten.hardtanh_backward,
    aten.leaky_relu_backward,
    aten.lerp,
    aten.log_sigmoid_forward,
    aten.log_sigmoid_backward,
    aten.mish,
    aten.mish_backward,
    aten.native_group_norm,
    aten.native_group_norm_backward,
    aten.native_layer_norm,
    aten.native_layer_norm_backward,
    aten._prelu_kernel,
    aten._prelu_kernel_backward,
    aten._softmax,
    aten._softmax_backward_data,
    aten._log_softmax,
    aten._log_softmax_backward_data,
    aten.softplus,
    aten.softplus_backward,
    aten.square,
    aten.std,
    aten.threshold,
    aten.pixel_shuffle,
    aten.pixel_unshuffle,
    aten.channel_shuffle,
    aten.native_channel_shuffle,
    aten.roll,
)


def trace(
    function: Callable[..., Sequence[Tensor]],
    example_inputs: Sequence[Tensor],
    *,
    modules: Mapping[str, nn.Module] | None = None,
) -> fx.GraphModule:
    """Record a function of tensors as a graph without side effects.

    Nothing is computed: the trace runs on tensors that have shapes only, so it takes little memory
    whatever the size of model and batch.

    Args:
        function: may call `torch.autograd.grad`; its gradients are in the graph.
        example_inputs: tensors of the shapes and types that the graph is for.
        modules: nodes are marked with the module among these, or below, that they come from; the
            names stand before those of the modules below, and may be empty.

    Raises:
        ExportError: the function cannot be traced, or changes a tensor in a way that the graph
            would not show.
    """
    try:
        with _Marks(modules or {}).active():
            graph = make_fx(
                function,
                decomposition_table=_decompositions(),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )(*example_inputs)
    except (RuntimeError, NotImplementedError) as error:
        raise ExportError(f"the model cannot be traced: {error}") from error
    _mark(graph.graph, "")
    _replace_in_place(graph.graph)
    return graph


def _decompositions() -> dict[OpOverload, Callable[..., Any]]:
    table = get_decompositions(_DECOMPOSED)
    return {target: rule for target, rule in table.items() if isinstance(target, OpOverload)}


@contextlib.contextmanager
def region(name: str) -> Iterator[None]:
    """Name what is traced inside, where it is no module's; otherwise do nothing."""
    marks = _active_marks.get()
    if marks is None:
        yield
        return
    marks.enter(name)
    yield
    marks.leave()


class _Marks:
    """Marks nodes with the module that they come from, in the backward pass too.

    Args:
        roots: modules by the names that stand before those of the modules below them.
    """

    def __init__(self, roots: Mapping[str, nn.Module]) -> None:
        self._roots = roots
        self._path = [""]
        self._steps: set[Any] = set()  # of the backward pass, each with a hook

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Mark what is traced inside."""
        handles = []
        for prefix, root in self._roots.items():
            for below, module in root.named_modules():
                name = ".".join(filter(None, (prefix, below)))
                handles.append(module.register_forward_pre_hook(lambda *_, n=name: self.enter(n)))
                handles.append(module.register_forward_hook(lambda _m, _x, out: self.leave(out)))
        token = _active_marks.set(self)
        try:
            yield
        finally:
            _active_marks.reset(token)
            self._steps.clear()
            for handle in handles:
                handle.remove()

    def enter(self, name: str) -> None:
        """What is traced from now on comes from `name`."""
        self._mark()
        self._path.append(name)

    def leave(self, out: Any = None) -> None:
        """What was entered last ends here; out, if given, is differentiated under its name."""
        self._mark()
        name = self._path.pop()
        waiting = [value.grad_fn for value in tree_leaves(out) if isinstance(value, Tensor)]
        while waiting:  # what was recorded since the modules inside and before this one
            step = waiting.pop()
            if step is not None and step not in self._steps:
                self._steps.add(step)
                step.register_prehook(lambda _, n=name: self._turn_to(f"{n}/backward"))
                waiting.extend(source for source, _ in step.next_functions)

    def _turn_to(self, name: str) -> None:
        self._mark()
        self._path[-1] = name

    def _mark(self) -> None:
        mode = get_proxy_mode()
        assert mode is not None
        _mark(mode.tracer.graph, self._path[-1])


# Those of the trace that goes on in this thread.
_active_marks: ContextVar[_Marks | None] = ContextVar("active_marks", default=None)


def _mark(graph: fx.Graph, name: str) -> None:
    for node in reversed(graph.nodes):
        if MODULE in node.meta:
            return
        node.meta[MODULE] = name


def _replace_in_place(graph: fx.Graph) -> None:
    """Turn `add_` into `add` and so on, which is the same where nobody else sees the tensor.

    The tracer makes later uses of the tensor itself point to the result. What it does not see is
    a change through, or under, a view of the tensor.
    """
    memory: dict[fx.Node, fx.Node] = {}  # views -> the node whose memory they show
    position: dict[fx.Node, int] = {}
    changed: dict[fx.Node, fx.Node] = {}  # memory -> the node that wrote to it last
    for index, node in enumerate(graph.nodes):
        position[node] = index
        for used in node.all_input_nodes:
            writer = changed.get(memory.get(used, used))
            if writer is not None and position[used] < position[writer]:
                raise ExportError(
                    f"{_place(node)} reads a tensor whose memory {writer.target} has changed; use "
                    "the operator that returns a new tensor"
                )
        if node.target is operator.getitem and node.args[0] in memory:
            memory[node] = memory[node.args[0]]
        elif isinstance(node.target, OpOverload):
            if (written := _aliased_argument(node, written=True)) is not None:
                owner = memory[node] = memory.get(written, written)
                _check_owned(owner, node)
                changed[owner] = node
                node.target = _functional(node)
            elif (viewed := _aliased_argument(node, written=False)) is not None:
                memory[node] = memory.get(viewed, viewed)
    graph.lint()


def _check_owned(owner: fx.Node, node: fx.Node) -> None:
    if owner.op in ("get_attr", "placeholder"):
        raise ExportError(
            f"{_place(node)} changes a buffer or an input in place ({node.target}); of a model "
            "only parameters and BatchNorm statistics are trained"
        )


def _aliased_argument(node: fx.Node, *, written: bool) -> fx.Node | None:
    """The argument that the node writes to, or that it returns a view of."""
    assert isinstance(node.target, OpOverload)
    for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
        alias = argument.alias_info
        if alias is not None and alias.is_write == written and isinstance(value, fx.Node):
            return value
    return None


def _functional(node: fx.Node) -> Any:
    target = node.target
    assert isinstance(target, OpOverload)
    namespace = getattr(torch.ops, target.namespace)
    name = target._schema.name.rpartition("::")[2].removesuffix("_")
    try:
        return getattr(getattr(namespace, name), target._overloadname)
    except AttributeError as error:
        raise ExportError(
            f"{_place(node)} uses {target}, which has no translation to ONNX: replace it by "
            "operators that have one"
        ) from error


def _place(node: fx.Node) -> str:
    return f"module {node.meta[MODULE]!r}" if node.meta.get(MODULE) else "the model"

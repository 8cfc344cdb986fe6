"""Trace a function, including the gradients it computes, to one graph of ATen operators."""

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

# Key in a node's meta: path of the module whose forward or backward pass contains the node.
MODULE = "exportloss_module"

# Operators that torch can decompose itself and that take little of a detector's time.
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

    Nothing is computed: tracing uses tensors without data, so it needs little memory whatever the
    size of the model and the batch.

    Args:
        function: Function to trace. It may call `torch.autograd.grad`, whose nodes become part of
            the graph.
        example_inputs: Tensors with the shapes and element types of the graph's inputs.
        modules: Root modules by the prefix of their submodules' names, which may be empty. Each
            node is marked with the name of the module that it comes from.

    Raises:
        ExportError: The function cannot be traced, or it changes a tensor in a way that the graph
            could not represent.
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
    """Label the nodes traced in this block as if they belonged to a module `name`.

    No-op outside a trace.
    """
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
        roots: Root modules by the prefix of their submodules' names.
    """

    def __init__(self, roots: Mapping[str, nn.Module]) -> None:
        self._roots = roots
        self._path = [""]
        self._steps: set[Any] = set()  # autograd nodes that have a hook

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Mark the nodes traced in this block."""
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
        """Attribute the nodes traced from now on to `name`."""
        self._mark()
        self._path.append(name)

    def leave(self, out: Any = None) -> None:
        """End the innermost name, and attribute the backward pass of `out` to it."""
        self._mark()
        name = self._path.pop()
        waiting = [value.grad_fn for value in tree_leaves(out) if isinstance(value, Tensor)]
        while waiting:  # stops at autograd nodes of inner and earlier modules, which have a hook
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


# Marks of the trace in progress in this context.
_active_marks: ContextVar[_Marks | None] = ContextVar("active_marks", default=None)


def _mark(graph: fx.Graph, name: str) -> None:
    for node in reversed(graph.nodes):
        if MODULE in node.meta:
            return
        node.meta[MODULE] = name


def _replace_in_place(graph: fx.Graph) -> None:
    """Replace in-place operators, such as `add_` by `add`, and refuse them if memory is shared.

    The tracer redirects later uses of the changed tensor to the result, but not uses of other
    tensors that share its memory.

    Raises:
        ExportError: A tensor is read after its memory has changed through another, a buffer or an
            input is changed, or an operator has no variant that returns a new tensor.
    """
    memory: dict[fx.Node, fx.Node] = {}  # view -> the node that owns its memory
    position: dict[fx.Node, int] = {}
    changed: dict[fx.Node, fx.Node] = {}  # owner -> the last node that wrote to its memory
    for index, node in enumerate(graph.nodes):
        position[node] = index
        for used in node.all_input_nodes:
            writer = changed.get(memory.get(used, used))
            if writer is not None and position[used] < position[writer]:
                raise ExportError(
                    f"{_place(node)} reads a tensor whose memory {writer.target} has changed; use "
                    "the variant of that operator that returns a new tensor"
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
            f"{_place(node)} changes a buffer or an input in place ({node.target}); only "
            "parameters and BatchNorm statistics may change, so return a new tensor instead"
        )


def _aliased_argument(node: fx.Node, *, written: bool) -> fx.Node | None:
    """Return the argument that the node writes to, or the one that it returns a view of."""
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
            f"{_place(node)} uses {target}, which has no translation to ONNX; replace it "
            "with operators that have one"
        ) from error


def _place(node: fx.Node) -> str:
    return f"module {node.meta[MODULE]!r}" if node.meta.get(MODULE) else "the model"

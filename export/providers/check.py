"""Tell what a provider would do with a graph, node by node, from tables of its kernels."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.export.providers.kernels import STANDARD_DOMAINS, missing_types, schema_of
from exportloss.export.providers.node_facts import type_name
from exportloss.export.providers.result import CheckResult, OperatorUse, Trouble
from exportloss.export.providers.rules import RULES, Verdict, remedy_for
from exportloss.export.providers.tables import PROVIDERS, ProviderName, provider_table
from exportloss.export.providers.tensorrt_parser import TENSORRT_NAMES, installed, why_not_asked
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.checksum import model_is_whole
from exportloss.runtime.artifact.limits import MAX_MODEL_BYTES
from exportloss.runtime.artifact.onnx_file import parse_onnx

__all__ = ["check"]

_NAMED_NODES = 3

_NO_PROFILE = Trouble(
    name="dynamic shapes",
    verdict=Verdict.UNSUPPORTED,
    why="an engine is built for a range of shapes that has to be told beforehand",
    remedy="export with fixed shapes, or give a profile (trtexec --minShapes, --optShapes, "
    "--maxShapes)",
)
_DYNAMIC = {
    "cuda": Trouble(
        name="dynamic shapes",
        verdict=Verdict.NOTE,
        why="ONNX Runtime computes the shapes on the CPU, and no CUDA graph can be captured",
        remedy="export with fixed shapes",
    ),
    "tensorrt": _NO_PROFILE,
    "tensorrt-rtx": _NO_PROFILE,
}
_DYNAMIC_ELSEWHERE = Trouble(
    name="dynamic shapes",
    verdict=Verdict.NOTE,
    why="memory cannot be planned ahead",
    remedy="export with fixed shapes",
)


def check(
    model: str | Path | onnx.ModelProto | ir.Model,
    *,
    provider: ProviderName,
    engine: str | Path | None = None,
    compute_capability: str | None = None,
) -> CheckResult:
    """Check which nodes of a graph a provider has kernels for, and what is known to go wrong.

    Nothing is run: the answer comes from lists of kernels, which tell operators and types, and from
    rules on attributes. Nodes in the bodies of If, Loop and Scan are counted too. Where TensorRT,
    or TensorRT for RTX, is installed, its own parser is asked as well.

    Args:
        model: graph, or path of its file; it is not changed.
        provider: name of the provider: `cuda` and `cpu` are ONNX Runtime's, `web` is
            onnxruntime-web's WebAssembly, `tensorrt` is TensorRT behind ONNX Runtime or alone,
            `tensorrt-rtx` is TensorRT for RTX.
        engine: file to write an engine to, which the provider's own library builds.
        compute_capability: compute capability of the GPUs that the engine is for, such as "8.9";
            None leaves it to the library.

    Raises:
        ConfigError: there is no such provider, or the engine does not go with it.
        ArtifactError: the file is missing or is no ONNX model, or the engine cannot be written.
        InstallationError: the library that the engine needs is not installed or cannot start.
    """
    if provider not in PROVIDERS:
        raise ConfigError(f"provider is {provider!r}; expected one of {', '.join(PROVIDERS)}")
    libraries = installed(
        provider, engine=engine is not None, compute_capability=compute_capability
    )
    loaded = _loaded(model)
    try:
        result = _Check(_completed(loaded), provider).result()
    except Exception as error:  # the rules trust a graph to be as ONNX prescribes
        _refuse_invalid(loaded, error)
        raise
    content = ir.to_proto(loaded).SerializeToString() if libraries else b""
    answers = [
        library.parse(content, engine=engine if library.provider == provider else None)
        for library in libraries
    ]
    is_asked = any(library.provider == provider for library in libraries)
    reason = "" if is_asked else why_not_asked(provider)
    return dataclasses.replace(result, parsers=tuple(answers), not_asked=reason)


def _loaded(model: str | Path | onnx.ModelProto | ir.Model) -> ir.Model:
    if isinstance(model, ir.Model):
        return model
    if isinstance(model, onnx.ModelProto):
        return ir.from_proto(model)
    path = Path(model)
    try:
        content = read_bounded(path, MAX_MODEL_BYTES, error=ArtifactError)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    try:
        if not model_is_whole(content):
            raise ValueError("it is damaged: its content does not match its sha256")
        parse_onnx(content)  # tensors in other files are refused
        loaded = ir.from_proto(onnx.load_model_from_string(content))
        if not loaded.opset_imports:
            raise ValueError("it names no opset")
        return loaded
    except Exception as error:  # protobuf's and onnx_ir's own, of many kinds
        raise ArtifactError(f"{path} is no ONNX model: {excerpt(error, 500)}") from error


def _refuse_invalid(model: ir.Model, error: Exception) -> None:
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except Exception as reason:
        raise ArtifactError(f"the graph is no valid ONNX: {excerpt(reason, 500)}") from error


def _completed(model: ir.Model) -> ir.Model:
    """The model with its functions written out and a type for every value, where ONNX infers it."""
    if not model.functions and not any(_untyped(model)):
        return model
    copy = ir.from_proto(ir.to_proto(model))
    passes.InlinePass()(copy)
    try:
        return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(copy)))
    except onnx.shape_inference.InferenceError:
        return copy  # types that are not known are told


def _untyped(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes with an output whose type is not known."""
    for node in model.graph.all_nodes():
        if any(value.type is None and value.name for value in node.outputs):
            yield node


class _Check:
    """One graph against one provider."""

    def __init__(self, model: ir.Model, provider: ProviderName) -> None:
        self.provider = provider
        self.table = provider_table(provider)
        self.model = model
        imports = model.opset_imports
        self.opset = max(imports.get(domain, 0) for domain in STANDARD_DOMAINS)
        self.outer = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}

    def result(self) -> CheckResult:
        """Judge every node, then the graph as a whole."""
        uses: Counter[tuple[Any, ...]] = Counter()
        found: dict[Trouble, list[str]] = defaultdict(list)
        whole = list(self._of_graph())
        is_held = self._holds_opset()
        for node in self.model.graph.all_nodes():
            troubles = list(self._of_node(node))
            for trouble in troubles:
                found[trouble].append(node.name or node.op_type)
            verdicts = [trouble.verdict for trouble in troubles]
            verdict = max(verdicts, default=Verdict.RUNS) if is_held else Verdict.UNSUPPORTED
            schema = schema_of(node, self.opset)
            version = None if schema is None else int(schema.since_version)
            names = tuple(trouble.name for trouble in troubles)
            uses[_operator(node), version, _types_of(node), verdict, names] += 1
        troubles = whole + [
            dataclasses.replace(trouble, count=len(names), nodes=tuple(names[:_NAMED_NODES]))
            for trouble, names in found.items()
        ]
        keys = ("operator", "version", "types", "verdict", "troubles")
        operators = [
            OperatorUse(count=count, **dict(zip(keys, key, strict=True)))
            for key, count in uses.items()
        ]
        return CheckResult(
            provider=self.provider,
            product=self.table.product,
            source=self.table.source,
            opset=self.opset,
            operators=tuple(sorted(operators, key=lambda use: (use.operator, use.types))),
            troubles=tuple(sorted(troubles, key=lambda t: (-t.verdict, -t.count, t.name))),
        )

    def _holds_opset(self) -> bool:
        oldest, newest = self.table.opsets
        return oldest <= self.opset <= newest

    def _of_graph(self) -> Iterator[Trouble]:
        if not self._holds_opset():
            oldest, newest = self.table.opsets
            yield Trouble(
                name=f"opset {self.opset}",
                verdict=Verdict.UNSUPPORTED,
                why=f"the table of {self.table.product} holds opsets {oldest} to {newest}",
                remedy="export for opset 18, which exportloss does, or take a newer runtime and "
                "its table",
                count=len(list(self.model.graph.all_nodes())),
            )
        if untyped := [node.name or node.op_type for node in _untyped(self.model)]:
            yield Trouble(
                name="types that are not known",
                verdict=Verdict.NOTE,
                why="ONNX infers no types here, so only operators and attributes were held "
                "against the table",
                remedy="write the types into the graph's value_info",
                count=len(untyped),
                nodes=tuple(untyped[:_NAMED_NODES]),
            )
        if dynamic := [v.name for v in self._values() if v.name and not _is_static(v)]:
            yield dataclasses.replace(
                _DYNAMIC.get(self.provider, _DYNAMIC_ELSEWHERE),
                count=len(dynamic),
                nodes=tuple(dynamic[:_NAMED_NODES]),
            )
        if self.provider == "web":
            yield from self._of_webgpu()

    def _values(self) -> Iterator[ir.Value]:
        yield from self.model.graph.inputs
        for node in self.model.graph.all_nodes():
            yield from node.outputs

    def _of_webgpu(self) -> Iterator[Trouble]:
        table = provider_table("webgpu")
        left = Counter(
            node.op_type
            for node in self.model.graph.all_nodes()
            if node.op_type != "Constant" and missing_types(node, table, self.opset) != ()
        )
        if left:
            yield Trouble(
                name="WebGPU lacks operators",
                verdict=Verdict.NOTE,
                why=f"{table.product} leaves them to WebAssembly, with copies: "
                + ", ".join(sorted(left)),
                remedy="nothing, where the WebAssembly provider runs the whole graph",
                count=sum(left.values()),
            )

    def _of_node(self, node: ir.Node) -> Iterator[Trouble]:
        if node.domain not in STANDARD_DOMAINS:
            yield Trouble(
                name=f"operators of {node.domain}",
                verdict=Verdict.UNSUPPORTED,
                why="they are ONNX Runtime's or a plugin's own and in no table here; gradients of "
                "ONNX Runtime's training artifacts exist in its training build alone"
                if node.domain == "com.microsoft"
                else "they are a plugin's own and in no table here",
                remedy="export the portable step, which has operators of ai.onnx only",
            )
            return
        missing = missing_types(node, self.table, self.opset)
        if missing != () and not self._is_folded(node):
            yield self._no_kernel(node, missing or ())
        yield from self._of_uint8(node)
        for rule in RULES:
            if (
                self.provider in rule.providers
                and node.op_type in rule.operators
                and rule.applies(node)
            ):
                yield Trouble(
                    name=rule.name, verdict=rule.verdict, why=rule.why, remedy=rule.remedy
                )
        if restriction := self.table.undecided.get(node.op_type):
            yield Trouble(
                name=f"{node.op_type} is restricted",
                verdict=Verdict.NOTE,
                why=f"{self.table.product}: {restriction}",
                remedy="hold the model against it",
            )

    def _is_folded(self, node: ir.Node) -> bool:
        """ONNX Runtime makes constants of these when it loads a graph."""
        return node.op_type == "Constant" and self.provider not in TENSORRT_NAMES

    def _no_kernel(self, node: ir.Node, types: tuple[str, ...]) -> Trouble:
        of_types = f" of {' and '.join(types)}" if types else ""
        on_cpu = (
            self.provider == "cuda" and missing_types(node, provider_table("cpu"), self.opset) == ()
        )
        has = f"has no kernel for {node.op_type}{of_types}"
        return Trouble(
            name=f"{node.op_type}{of_types}",
            verdict=Verdict.FALLBACK if on_cpu else Verdict.UNSUPPORTED,
            why=f"{self.table.product} {has}"
            + on_cpu * ": it runs on the CPU, with copies to it and back",
            remedy=remedy_for(node.op_type, types),
        )

    def _of_uint8(self, node: ir.Node) -> Iterator[Trouble]:
        if self.provider not in TENSORRT_NAMES:
            return
        inner = [value for value in node.outputs if id(value) not in self.outer]
        if any(type_name(value) == "uint8" for value in inner):
            yield Trouble(
                name="uint8 inside the graph",
                verdict=Verdict.UNSUPPORTED,
                why="TensorRT takes uint8 for inputs and outputs of the graph only",
                remedy="Cast a uint8 input first of all, and to uint8 last of all",
            )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def _types_of(node: ir.Node) -> tuple[str, ...]:
    values = (*node.inputs, *node.outputs)
    return tuple(dict.fromkeys(name for value in values if (name := type_name(value))))


def _is_static(value: ir.Value) -> bool:
    is_tensor = value.type is None or isinstance(value.type, ir.TensorType)
    return not is_tensor or (value.shape is not None and value.shape.is_static())

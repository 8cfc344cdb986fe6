"""Check of a graph against a provider, node by node, from tables of its kernels."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from exportloss.errors import ConfigError
from exportloss.export.providers.kernels import STANDARD_DOMAINS, missing_types, schema_of
from exportloss.export.providers.loading import completed, load, refuse_invalid, untyped_nodes
from exportloss.export.providers.node_facts import type_name
from exportloss.export.providers.parser_answer import TENSORRT_NAMES
from exportloss.export.providers.result import CheckResult, Finding, OperatorUse
from exportloss.export.providers.rules import RULES, Verdict, remedy_for
from exportloss.export.providers.tables import PROVIDERS, ProviderName, provider_table
from exportloss.export.providers.tensorrt_parser import installed, why_not_asked

__all__ = ["check"]

_NAMED_NODES = 3

_NO_PROFILE = Finding(
    name="dynamic shapes",
    verdict=Verdict.UNSUPPORTED,
    why="an engine is built for a range of shapes that must be given in advance",
    remedy="export with fixed shapes, or give a profile (trtexec --minShapes, --optShapes, "
    "--maxShapes)",
)
_DYNAMIC = {
    "cuda": Finding(
        name="dynamic shapes",
        verdict=Verdict.NOTE,
        why="ONNX Runtime computes the shapes on the CPU, and no CUDA graph can be captured",
        remedy="export with fixed shapes",
    ),
    "tensorrt": _NO_PROFILE,
    "tensorrt-rtx": _NO_PROFILE,
}
_DYNAMIC_ELSEWHERE = Finding(
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
    """Check which nodes of a graph a provider has kernels for, and report known problems.

    The graph is not run: the result follows from tables of kernels (operators and element types)
    and from rules on attributes. Nodes in the bodies of If, Loop and Scan count too. The parsers of
    TensorRT and TensorRT for RTX are asked as well if they are installed and the provider is
    TensorRT's.

    Args:
        model: Graph, or path of its file. The graph is not changed.
        provider: Name of the provider: `cuda` and `cpu` are ONNX Runtime's, `web` is
            onnxruntime-web's WebAssembly, `tensorrt` is TensorRT (in ONNX Runtime or on its own),
            `tensorrt-rtx` is TensorRT for RTX.
        engine: Path to write an engine to, which the provider's own library builds.
        compute_capability: Compute capability of the GPUs that the engine is for, such as "8.9";
            None leaves the choice to the library.

    Raises:
        ConfigError: The provider is unknown, or has no engines, or does not build them for the
            compute capability; or a compute capability is given without an engine.
        ArtifactError: The file is missing or not an ONNX model, or the engine cannot be written.
        InstallationError: The library that builds the engine is not installed or cannot start.
    """
    if provider not in PROVIDERS:
        raise ConfigError(f"provider is {provider!r}; expected one of {', '.join(PROVIDERS)}")
    libraries = installed(
        provider, engine=engine is not None, compute_capability=compute_capability
    )
    loaded = load(model)
    try:
        result = _Check(completed(loaded), provider).result()
    except Exception as error:  # the rules rely on a valid graph
        refuse_invalid(loaded, error)
        raise
    content = ir.to_proto(loaded).SerializeToString() if libraries else b""
    answers = [
        library.parse(content, engine=engine if library.provider == provider else None)
        for library in libraries
    ]
    is_asked = any(library.provider == provider for library in libraries)
    reason = "" if is_asked else why_not_asked(provider)
    return dataclasses.replace(result, parsers=tuple(answers), not_asked=reason)


class _Check:
    """Check of one graph against one provider."""

    def __init__(self, model: ir.Model, provider: ProviderName) -> None:
        self.provider = provider
        self.table = provider_table(provider)
        self.model = model
        imports = model.opset_imports
        self.opset = max(imports.get(domain, 0) for domain in STANDARD_DOMAINS)
        self.outer = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}

    def result(self) -> CheckResult:
        """Return the findings on every node and on the graph as a whole."""
        uses: Counter[tuple[Any, ...]] = Counter()
        found: dict[Finding, list[str]] = defaultdict(list)
        whole = list(self._of_graph())
        is_held = self._holds_opset()
        for node in self.model.graph.all_nodes():
            findings = list(self._of_node(node))
            for finding in findings:
                found[finding].append(node.name or node.op_type)
            verdicts = [finding.verdict for finding in findings]
            verdict = max(verdicts, default=Verdict.RUNS) if is_held else Verdict.UNSUPPORTED
            schema = schema_of(node, self.opset)
            version = None if schema is None else int(schema.since_version)
            names = tuple(finding.name for finding in findings)
            uses[_operator(node), version, _types_of(node), verdict, names] += 1
        findings = whole + [
            dataclasses.replace(finding, count=len(names), nodes=tuple(names[:_NAMED_NODES]))
            for finding, names in found.items()
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
            troubles=tuple(sorted(findings, key=lambda t: (-t.verdict, -t.count, t.name))),
        )

    def _holds_opset(self) -> bool:
        oldest, newest = self.table.opsets
        return oldest <= self.opset <= newest

    def _of_graph(self) -> Iterator[Finding]:
        if not self._holds_opset():
            oldest, newest = self.table.opsets
            yield Finding(
                name=f"opset {self.opset}",
                verdict=Verdict.UNSUPPORTED,
                why=f"the table of {self.table.product} covers opsets {oldest} to {newest}",
                remedy="export for opset 18, as exportloss does, or use a newer runtime and its "
                "table",
                count=len(list(self.model.graph.all_nodes())),
            )
        if untyped := [node.name or node.op_type for node in untyped_nodes(self.model)]:
            yield Finding(
                name="types that are not known",
                verdict=Verdict.NOTE,
                why="ONNX cannot infer types here, so only operators and attributes were checked",
                remedy="add the types to the graph's value_info",
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

    def _of_webgpu(self) -> Iterator[Finding]:
        table = provider_table("webgpu")
        left = Counter(
            node.op_type
            for node in self.model.graph.all_nodes()
            if node.op_type != "Constant" and missing_types(node, table, self.opset) != ()
        )
        if left:
            yield Finding(
                name="WebGPU lacks operators",
                verdict=Verdict.NOTE,
                why=f"{table.product} leaves them to WebAssembly, with copies: "
                + ", ".join(sorted(left)),
                remedy="none needed if the WebAssembly provider runs the whole graph",
                count=sum(left.values()),
            )

    def _of_node(self, node: ir.Node) -> Iterator[Finding]:
        if node.domain not in STANDARD_DOMAINS:
            yield Finding(
                name=f"operators of {node.domain}",
                verdict=Verdict.UNSUPPORTED,
                why="they belong to ONNX Runtime or a plug-in and are in no table here; gradients "
                "of ONNX Runtime's training artifacts exist only in its training build"
                if node.domain == "com.microsoft"
                else "they belong to a plug-in and are in no table here",
                remedy="export the portable step, whose operators are all of ai.onnx",
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
                yield Finding(
                    name=rule.name, verdict=rule.verdict, why=rule.why, remedy=rule.remedy
                )
        if restriction := self.table.undecided.get(node.op_type):
            yield Finding(
                name=f"{node.op_type} is restricted",
                verdict=Verdict.NOTE,
                why=f"{self.table.product}: {restriction}",
                remedy="check the model against this restriction",
            )

    def _is_folded(self, node: ir.Node) -> bool:
        """Return whether ONNX Runtime replaces the node by a constant when it loads the graph."""
        return node.op_type == "Constant" and self.provider not in TENSORRT_NAMES

    def _no_kernel(self, node: ir.Node, types: tuple[str, ...]) -> Finding:
        of_types = f" of {' and '.join(types)}" if types else ""
        on_cpu = (
            self.provider == "cuda" and missing_types(node, provider_table("cpu"), self.opset) == ()
        )
        has = f"has no kernel for {node.op_type}{of_types}"
        return Finding(
            name=f"{node.op_type}{of_types}",
            verdict=Verdict.FALLBACK if on_cpu else Verdict.UNSUPPORTED,
            why=f"{self.table.product} {has}"
            + on_cpu * ": it runs on the CPU, with copies in both directions",
            remedy=remedy_for(node.op_type, types),
        )

    def _of_uint8(self, node: ir.Node) -> Iterator[Finding]:
        if self.provider not in TENSORRT_NAMES:
            return
        inner = [value for value in node.outputs if id(value) not in self.outer]
        if any(type_name(value) == "uint8" for value in inner):
            yield Finding(
                name="uint8 inside the graph",
                verdict=Verdict.UNSUPPORTED,
                why="TensorRT supports uint8 only for inputs and outputs of the graph",
                remedy="Cast a uint8 input before any other operator, and a uint8 output after all",
            )


def _operator(node: ir.Node) -> str:
    return node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}.{node.op_type}"


def _types_of(node: ir.Node) -> tuple[str, ...]:
    values = (*node.inputs, *node.outputs)
    return tuple(dict.fromkeys(name for value in values if (name := type_name(value))))


def _is_static(value: ir.Value) -> bool:
    is_tensor = value.type is None or isinstance(value.type, ir.TensorType)
    return not is_tensor or (value.shape is not None and value.shape.is_static())

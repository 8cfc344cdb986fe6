"""Result of a check of a graph against a provider."""

from __future__ import annotations

import dataclasses
from typing import Any

from exportloss.export.providers.parser_answer import ParserAnswer
from exportloss.export.providers.rules import Verdict
from exportloss.export.providers.tables import ProviderName

__all__ = ["CheckResult", "Finding", "OperatorUse"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that a provider cannot do or does differently than expected.

    Attributes:
        name: Short description.
        verdict: What the provider does with the nodes.
        why: Reason, in a sentence.
        remedy: Change that avoids the finding.
        count: Number of nodes concerned; for dynamic shapes, number of values.
        nodes: Names of the first few of them.
    """

    name: str
    verdict: Verdict
    why: str
    remedy: str
    count: int = 1
    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorUse:
    """Nodes of one operator with the same element types and findings.

    Attributes:
        operator: Name of the operator, preceded by its domain unless that is `ai.onnx`.
        version: Version of the operator, the opset in which it last changed; None if unknown.
        types: Distinct element types of the inputs and outputs, in the order of the operator's.
        count: Number of nodes.
        verdict: What the provider does with the nodes.
        troubles: Names of the findings on the nodes.
    """

    operator: str
    version: int | None
    types: tuple[str, ...]
    count: int
    verdict: Verdict
    troubles: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckResult:
    """Result of a check of a graph against a provider.

    Attributes:
        provider: Name of the provider.
        product: Name and version of the product that the table is for.
        source: Origin of the table.
        opset: Version of the `ai.onnx` opset of the graph.
        operators: Operators in use, sorted by name.
        troubles: Findings, the worst first.
        parsers: Answers of the TensorRT libraries that were asked.
        not_asked: Reason why the provider's own parser was not asked; empty if it was, or if the
            provider has none.
    """

    provider: ProviderName
    product: str
    source: str
    opset: int
    operators: tuple[OperatorUse, ...]
    troubles: tuple[Finding, ...]
    parsers: tuple[ParserAnswer, ...] = ()
    not_asked: str = ""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return sum(use.count for use in self.operators)

    @property
    def fallbacks(self) -> int:
        """Number of nodes that run on the CPU instead of the provider."""
        return self._count(Verdict.FALLBACK)

    @property
    def unsupported(self) -> int:
        """Number of nodes that the provider cannot run."""
        return self._count(Verdict.UNSUPPORTED)

    @property
    def passed(self) -> bool:
        """Whether the provider runs the whole graph.

        A refusal by the provider's own library, or an engine that it built, overrides the tables.
        That its parser alone accepts the graph does not: parsers accept more than builders.
        """
        for answer in self.parsers:
            if answer.provider == self.provider and (answer.refusals or answer.engine):
                return answer.passed
        return all(finding.verdict <= Verdict.NOTE for finding in self.troubles)

    def to_json(self) -> dict[str, Any]:
        """Return the result and its counts as JSON types, with verdicts as lower-case names."""
        plain = dataclasses.asdict(self)
        for entry in (*plain["operators"], *plain["troubles"]):
            entry["verdict"] = entry["verdict"].name.lower()
        counts = {name: getattr(self, name) for name in ("nodes", "fallbacks", "unsupported")}
        return {"passed": self.passed, **counts, **plain}

    def _count(self, verdict: Verdict) -> int:
        return sum(use.count for use in self.operators if use.verdict == verdict)

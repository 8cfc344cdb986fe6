"""What a check of a graph against a provider finds."""

from __future__ import annotations

import dataclasses
from typing import Any

from exportloss.export.providers.rules import Verdict
from exportloss.export.providers.tables import ProviderName
from exportloss.export.providers.tensorrt_parser import ParserAnswer

__all__ = ["CheckResult", "OperatorUse", "Trouble"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trouble:
    """Something that a provider cannot do, or does otherwise than expected.

    Attributes:
        name: what it is.
        verdict: what becomes of the nodes.
        why: what the provider does.
        remedy: what to do about it.
        count: of nodes that have it.
        nodes: names of a few of them.
    """

    name: str
    verdict: Verdict
    why: str
    remedy: str
    count: int = 1
    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class OperatorUse:
    """Nodes of one operator with the same types and troubles.

    Attributes:
        operator: its name, with the domain in front where that is not `ai.onnx`.
        version: of the operator, the opset in which it last changed; None if not known.
        types: element types of its inputs and outputs, in the order of the operator.
        count: of nodes.
        verdict: what becomes of them.
        troubles: names of what is wrong with them.
    """

    operator: str
    version: int | None
    types: tuple[str, ...]
    count: int
    verdict: Verdict
    troubles: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a provider does with a graph.

    Attributes:
        provider: name of the provider.
        product: name and version behind the table.
        source: origin of the table.
        opset: opset of the graph, `ai.onnx`.
        operators: operators in use, in the order of their names.
        troubles: findings, the worst first.
        parsers: answers of the TensorRT libraries that are installed.
        not_asked: Reason why the provider's own parser gave no answer, where it has one; empty
            where it was asked.
    """

    provider: ProviderName
    product: str
    source: str
    opset: int
    operators: tuple[OperatorUse, ...]
    troubles: tuple[Trouble, ...]
    parsers: tuple[ParserAnswer, ...] = ()
    not_asked: str = ""

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return sum(use.count for use in self.operators)

    @property
    def fallbacks(self) -> int:
        """Number of nodes that run on the CPU instead."""
        return self._count(Verdict.FALLBACK)

    @property
    def unsupported(self) -> int:
        """Number of nodes that nothing runs."""
        return self._count(Verdict.UNSUPPORTED)

    @property
    def passed(self) -> bool:
        """Whether the provider runs the whole graph.

        What its own library refuses does not run, and that of which it built an engine does,
        whatever the tables hold; a parser alone takes more than a builder.
        """
        for answer in self.parsers:
            if answer.provider == self.provider and (answer.refusals or answer.engine):
                return answer.passed
        return all(trouble.verdict <= Verdict.NOTE for trouble in self.troubles)

    def to_json(self) -> dict[str, Any]:
        """Return everything in types that JSON has; verdicts by their names in lower case."""
        plain = dataclasses.asdict(self)
        for entry in (*plain["operators"], *plain["troubles"]):
            entry["verdict"] = entry["verdict"].name.lower()
        counts = {name: getattr(self, name) for name in ("nodes", "fallbacks", "unsupported")}
        return {"passed": self.passed, **counts, **plain}

    def _count(self, verdict: Verdict) -> int:
        return sum(use.count for use in self.operators if use.verdict == verdict)

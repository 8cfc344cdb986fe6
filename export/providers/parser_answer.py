"""Answers of TensorRT's parser and builder."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

__all__ = ["TENSORRT_NAMES", "Engine", "ParserAnswer", "Refusal", "TensorRTName"]

TensorRTName = Literal["tensorrt", "tensorrt-rtx"]
TENSORRT_NAMES: tuple[TensorRTName, ...] = get_args(TensorRTName)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """Reason for which the parser or the builder refuses a graph.

    Attributes:
        node: Name of the node; empty if the reason does not concern a single node.
        operator: Operator of the node; empty likewise.
        reason: Message of the library.
    """

    node: str
    operator: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that was built.

    Attributes:
        size: Size in bytes.
        seconds: Duration of the build.
    """

    size: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParserAnswer:
    """Answer of TensorRT, or TensorRT for RTX, on a graph.

    Attributes:
        provider: Name of the library in `exportloss check`.
        library: Name and version of the library that was asked.
        layers: Number of layers that the graph was converted to, up to the first refusal.
        refusals: Reasons of the parser, which stops at the first node that it fails to convert, or
            of the builder; empty if the graph was accepted.
        engine: Engine, if one was requested and built.
    """

    provider: TensorRTName
    library: str
    layers: int
    refusals: tuple[Refusal, ...] = ()
    engine: Engine | None = None

    @property
    def passed(self) -> bool:
        """Whether the parser, and the builder if it was asked, accepted the graph."""
        return not self.refusals

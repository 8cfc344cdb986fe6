"""What every exported graph is held to: nothing of it leaves CUDA or TensorRT.

Nor does TensorRT for RTX refuse what is exported for GPUs.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from exportloss.export import check

__all__ = ["assert_detects_on_gpus", "assert_runs_on_gpus"]

# Sums of scattered floats come in no fixed order there: of graphs that are not for GPUs alone.
EXPECTED_NOTES = {"scattered sums", "ScatterElements with a reduction"}


def assert_runs_on_gpus(
    model: ir.Model | onnx.ModelProto | Path,
    *,
    scattered_sums: bool = True,
    remarks: frozenset[str] = frozenset(),
) -> None:
    """No node falls back or is unsupported, and nothing is remarked that is not expected."""
    providers = ("cuda", "tensorrt") if scattered_sums else ("cuda", "tensorrt", "tensorrt-rtx")
    for provider in providers:
        result = check(model, provider=provider)  # type: ignore[arg-type]
        assert result.nodes > 0
        assert (result.fallbacks, result.unsupported) == (0, 0), result.troubles
        expected = remarks | (EXPECTED_NOTES if scattered_sums else set())
        assert {trouble.name for trouble in result.troubles} <= expected


def assert_detects_on_gpus(path: Path) -> None:
    """The same of a detector alone, but that it takes any number of images."""
    result = check(path, provider="cuda")
    assert (result.fallbacks, result.unsupported) == (0, 0), result.troubles
    assert {trouble.name for trouble in result.troubles} == {"dynamic shapes"}

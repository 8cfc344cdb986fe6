"""The table of CPU kernels is what the installed ONNX Runtime says of itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest

EXPORT = Path(__file__).parents[2] / "export"


def test_table_of_cpu_kernels():
    table = (EXPORT / "kernels_cpu.yaml").read_text()
    if f"ONNX Runtime {onnxruntime.__version__}," not in table:
        pytest.skip(f"the table is of another version than {onnxruntime.__version__}")
    # By its file: the package that it is in imports torch.
    spec = importlib.util.spec_from_file_location("listing", EXPORT / "kernel_listing.py")
    assert spec is not None and spec.loader is not None
    listing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(listing)
    assert listing.kernel_table("CPUExecutionProvider", 28) == table

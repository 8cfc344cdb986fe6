"""The table of CPU kernels matches the kernels that the installed ONNX Runtime lists."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]


def test_table_of_cpu_kernels():
    table = (ROOT / "export/providers/kernels_cpu.yaml").read_text()
    if f"ONNX Runtime {onnxruntime.__version__}," not in table:
        pytest.skip(f"the table is not for version {onnxruntime.__version__}")
    spec = importlib.util.spec_from_file_location("listing", ROOT / "scripts/list_kernels.py")
    assert spec is not None and spec.loader is not None
    listing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(listing)
    assert listing.kernel_table("CPUExecutionProvider", 28) == table

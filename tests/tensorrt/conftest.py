"""What the first environment exported for these tests: see `make_artifacts.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exportloss.export.providers.tensorrt_parser import TensorRT

GRAPHS = Path(__file__).parents[2] / "build" / "tensorrt"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        listing = GRAPHS / "graphs.json"
        names = json.loads(listing.read_text()) if listing.is_file() else []
        metafunc.parametrize("name", [name for name in names if not name.startswith("any/")])


@pytest.fixture(scope="session")
def graphs() -> Path:
    """The folder of the graphs."""
    if not (GRAPHS / "graphs.json").is_file():
        pytest.fail(f"{GRAPHS} holds no graphs; run `make tensorrt`", pytrace=False)
    return GRAPHS


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """TensorRT for RTX, which needs no GPU to parse and to build."""
    return TensorRT("tensorrt-rtx")

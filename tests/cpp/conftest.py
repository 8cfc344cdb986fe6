"""The C++ runtime's test program, and the artifacts that it trains: see `make cpp`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

ROOT = Path(__file__).parents[2]
CASES = ("small-sgd", "small-adamw", "small-frozen", "small-frozen-adamw")
DETECTOR_CASES = ("adamw",)  # of a model that has a `decode`: YOLOv5n

Probe = Callable[..., Any]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--build", default=str(ROOT / "build" / "cpp"), help="folder of the build")
    parser.addoption(
        "--artifacts", default=str(ROOT / "build" / "device"), help="folder of artifacts folders"
    )
    parser.addoption("--cases", help="names of the artifacts folders to train, in place of ours")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = metafunc.config.getoption("--cases")
    for name, cases in (("case", CASES), ("detector_case", DETECTOR_CASES)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, given.split(",") if given else cases)


@pytest.fixture(scope="session")
def artifacts(pytestconfig: pytest.Config) -> Path:
    """Folder of the artifacts folders."""
    return Path(pytestconfig.getoption("--artifacts"))


class ProbeError(Exception):
    """An error that the C++ runtime reported."""


@pytest.fixture
def probe(pytestconfig: pytest.Config, tmp_path: Path) -> Probe:
    """Function that sends a request to the test program, and returns its answer.

    With `tensors` these are in a file that the request names; with `wants_tensors` the answer is a
    pair of the answer and the tensors that the program wrote.
    """
    program = Path(pytestconfig.getoption("--build")) / "tests" / "probe"

    def ask(
        what: str,
        *,
        tensors: Mapping[str, np.ndarray] | None = None,
        wants_tensors: bool = False,
        **request: Any,
    ) -> Any:
        request |= {"do": what}
        if tensors is not None:
            contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
            save_file(contiguous, tmp_path / "in.safetensors")
            request["tensors"] = str(tmp_path / "in.safetensors")
        if wants_tensors:
            request["output"] = str(tmp_path / "out.safetensors")
        (tmp_path / "request.json").write_text(json.dumps(request, default=str))
        done = subprocess.run(
            [program, tmp_path / "request.json"], capture_output=True, text=True, check=False
        )
        if done.returncode == 1:
            raise ProbeError(done.stderr.strip())
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        return (answer, load_file(tmp_path / "out.safetensors")) if wants_tensors else answer

    return ask


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)

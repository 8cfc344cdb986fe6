"""A device has numpy, onnxruntime and the runtime's own needs: nothing else, and it starts soon."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from exportloss import InstallationError
from exportloss.runtime.sessions.installation import import_onnxruntime_training

TIMED = """
import time
start = time.process_time()
import exportloss.runtime
print(time.process_time() - start)
"""


@pytest.mark.parametrize("name", ["torch", "onnx", "onnxscript", "onnx_ir"])
def test_absent(name):
    assert importlib.util.find_spec(name) is None


def test_onnxruntime_is_no_training_build():
    with pytest.raises(InstallationError, match=r"onnxruntime.*training API"):
        import_onnxruntime_training()


def test_the_runtime_imports_in_under_half_a_second():
    """Of the processor's time, the least of five: other work on the machine is no fault."""
    times = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", TIMED], capture_output=True, text=True, check=True
        )
        times.append(float(done.stdout))
    assert min(times) < 0.5

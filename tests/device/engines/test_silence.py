"""No engine talks to anybody, though the import of OpenVINO would."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3]))  # pytest imports the tests of a device by files

from tests.support.hostile.system_calls import trace, why_no_trace

why = why_no_trace()


@pytest.mark.skipif(why is not None, reason=f"system calls are not seen: {why}")
@pytest.mark.parametrize("command", ["detect", "train"])
def test_openvino_talks_to_nobody_and_starts_nothing(device, data, tmp_path, command):
    pytest.importorskip("openvino", reason="OpenVINO is not installed", exc_type=ImportError)
    images = str(device / "spots" / "images" / "val")
    arguments = {
        "detect": ["--weights", str(device / "bright.onnx"), "--source", images, "--imgsz", "64"],
        "train": [
            *("--weights", str(device / "sgd"), "--data", str(data), "--epochs", "1"),
            *("--overflow", "keep-largest"),
        ],
    }[command]
    project = ["--device", "openvino", "--project", str(tmp_path)]
    traced = trace(["-m", "exportloss", command, *arguments, *project])
    assert traced.returncode == 0, traced.errors
    assert traced.sockets <= {"AF_UNIX"}
    assert not traced.strangers()
    assert not traced.kept

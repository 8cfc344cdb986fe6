"""What a device asks of the system: no socket to the outside, no other program.

With the newest onnxruntime, which reports to its maker unless it is told not to.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # pytest imports the tests of a device by files

from tests.support.hostile.system_calls import trace, why_no_trace

why = why_no_trace()
needs_strace = pytest.mark.skipif(why is not None, reason=f"system calls are not seen: {why}")

DIAL = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
START = "import subprocess; subprocess.run(['true'])"
KEEP = "import pathlib; pathlib.Path.home().joinpath('.cache').touch()"


@needs_strace
def test_what_talks_or_starts_something_is_noticed():
    assert trace(["-c", DIAL]).sockets == {"AF_INET"}
    assert '"true"' in trace(["-c", START]).strangers()[0]
    assert trace(["-c", KEEP]).kept == {".cache"}


@needs_strace
def test_a_device_talks_to_nobody_and_starts_nothing(device, data, tmp_path):
    spots, bright = device / "spots", str(device / "bright.onnx")
    size, project = ("--imgsz", "64"), ("--project", str(tmp_path))
    training = ["--weights", str(device / "sgd"), "--data", str(data), "--epochs", "1"]
    for arguments in (
        ["train", *training, "--overflow", "keep-largest", *project],
        ["val", "--weights", bright, "--data", str(spots / "data.yaml"), *size, *project],
        ["detect", "--weights", bright, "--source", str(spots / "images" / "val"), *size, *project],
    ):
        traced = trace(["-m", "exportloss", *arguments])
        assert traced.returncode == 0, traced.errors
        assert traced.sockets <= {"AF_UNIX"}, arguments
        assert not traced.strangers(), arguments
        # An onnxruntime that reports begins by writing down who it is.
        assert not traced.kept, arguments

"""No command opens a socket: what a device trains on stays there."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import exportloss
from tests.support.bright_detector import make_spots, write_bright_detector
from tests.support.hostile.system_calls import trace, why_no_trace

ROOT = Path(exportloss.__file__).parents[1]

# Python tells its audit hooks of every socket, whoever makes it, before it is made.
OFFLINE = """
import os
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event}{arguments}")
    is_onnxruntime = event == "import" and arguments[0] == "onnxruntime"
    if is_onnxruntime and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        raise RuntimeError("onnxruntime was not told to be silent")

sys.addaudithook(refuse)
"""
COMMANDS = """
import json
from exportloss.cli import main

for arguments in json.loads(sys.argv[1]):
    if status := main(arguments):
        sys.exit(f"{arguments} ended with {status}")
"""
FETCH = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
_NETWORK = {"asyncio", "ftplib", "http", "requests", "smtplib", "socket", "ssl", "urllib", "xmlrpc"}


def run_offline(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", OFFLINE + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
        | {"PYTHONPATH": str(ROOT)},
    )


def test_what_fetches_is_noticed():
    assert "socket." in run_offline(FETCH).stderr


def test_training_judging_and_detecting_open_no_socket(step_artifact, shapes, tmp_path):
    data, project = str(shapes), ["--project", str(tmp_path)]
    run = str(tmp_path / "exp")
    commands = [
        ["train", "--weights", str(step_artifact), "--data", data, "--epochs", "1", *project],
        ["val", "--weights", run, "--data", data, *project],
        ["detect", "--weights", run, "--source", str(shapes.parent / "images" / "val"), *project],
        ["check", f"{run}/weights/best.onnx", "--for", "cpu"],
    ]
    done = run_offline(COMMANDS, json.dumps(commands))
    assert done.returncode == 0, done.stderr


def test_an_onnxruntime_that_may_report_is_noticed():
    assert "told to be silent" in run_offline("import onnxruntime").stderr


def test_an_export_and_its_verification_talk_to_nobody_and_start_nothing(tmp_path):
    """Down to the calls of the system, those of libraries included."""
    if (why := why_no_trace()) is not None:
        pytest.skip(f"system calls are not seen: {why}")
    folder = str(tmp_path / "artifacts")
    size = ["--nc", "2", "--imgsz", "64", "--batch-size", "2", "--max-targets", "8"]
    for arguments in (
        ["export", "--weights", "yolov5n", *size, "--format", "step", "--output", folder],
        ["verify", folder, "--steps", "1"],
        ["check", f"{folder}/train_step.onnx", "--for", "cpu"],
    ):
        traced = trace(["-m", "exportloss", *arguments])
        assert traced.returncode == 0, traced.errors
        assert traced.sockets <= {"AF_UNIX"}, arguments
        assert not traced.strangers(), arguments
        assert not traced.kept, arguments


def test_plots_start_no_program(tmp_path):
    """Matplotlib lists the fonts of the system with one, where it is first imported."""
    if (why := why_no_trace()) is not None:
        pytest.skip(f"system calls are not seen: {why}")
    weights = str(write_bright_detector(tmp_path / "bright.onnx"))
    data, project = str(make_spots(tmp_path / "spots")), ["--project", str(tmp_path)]
    arguments = ["val", "--weights", weights, "--data", data, "--imgsz", "64", *project]
    traced = trace(["-m", "exportloss", *arguments])
    assert traced.returncode == 0, traced.errors
    assert (tmp_path / "exp" / "confusion_matrix.png").is_file()
    assert traced.sockets <= {"AF_UNIX"}
    assert not traced.strangers()
    assert len(traced.programs) == 2  # and the process of the detector


def test_no_module_imports_what_talks_to_networks():
    for package in ("exportloss", "export", "models"):
        for path in (ROOT / package).rglob("*.py"):
            assert not _imported(path) & _NETWORK, path


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}

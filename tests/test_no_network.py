"""No command opens a socket: what a device trains on stays there."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import exportloss

ROOT = Path(exportloss.__file__).parents[1]

# Python tells its audit hooks of every socket, whoever makes it, before it is made.
OFFLINE = """
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise RuntimeError(f"{event}{arguments}")

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
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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

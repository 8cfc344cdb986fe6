"""The command where there is neither torch nor onnx."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import exportloss

# What a device has: every import of torch or onnx fails there.
DEVICE = """
import sys
for name in ("torch", "onnx", "onnxscript", "onnx_ir"):
    sys.modules[name] = None
from exportloss.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(*arguments: object, cwd: Path, code: str = DEVICE) -> subprocess.CompletedProcess[str]:
    """Run the command, or other Python code with its arguments, in a process of its own."""
    root = str(Path(exportloss.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
    )

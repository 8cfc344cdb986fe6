"""`train.mjs` on the JavaScript runtimes gives Python's losses."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from exportloss.runtime import TrainSession

SOURCES = Path(__file__).parent / "javascript"
# Without scripts: onnxruntime-node's would fetch a CUDA library.
INSTALL = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund"]


@pytest.fixture(scope="module")
def script(device) -> Path:
    """`train.mjs` in a folder where its packages are installed."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = device.parent / "javascript"
    wanted, installed = SOURCES / "package.json", folder / "node_modules" / "package.json"
    if not installed.is_file() or installed.read_bytes() != wanted.read_bytes():
        folder.mkdir(exist_ok=True)
        shutil.copy(wanted, folder)
        done = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"npm could not install the packages: {done.stderr[-500:]}")
        shutil.copy(wanted, installed)  # last, so that it stands for a complete installation
    return Path(shutil.copy(SOURCES / "train.mjs", folder))


@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web"])
def test_losses_are_those_of_python(device, batches, expected, script, runtime):
    done = subprocess.run(
        ["node", script, runtime, device / "sgd", device / "batches.safetensors"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    session = TrainSession.open(device / "sgd", threads=1)
    losses = [session.step(*batch, **expected["settings"]).loss for batch in batches]
    assert json.loads(done.stdout) == pytest.approx(losses, rel=1e-5)

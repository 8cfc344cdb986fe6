"""Start, memory and size of the C++ runtime beside Python's, after `make cpp cpp-long`.

    .venv-device/bin/python benchmarks/cpp.py build/cpp-320/sgd

Each program opens the folder, and makes a step; they take turns. CPU time is of the whole process,
so that other work on the machine matters little.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from exportloss.runtime.artifact.manifest import Manifest

ROOT = Path(__file__).parents[1]
ROUNDS = 7
PYTHON = """
import json, sys
import numpy as np
from safetensors.numpy import load_file
from exportloss.runtime import TrainSession
request = json.load(open(sys.argv[1]))
session = TrainSession.open(request["folder"], threads=1)
for step in request["steps"]:
    images = load_file(request["tensors"])["images"][0]
    session.step(images, np.zeros((0, 6)), lr=0.001)
"""


def run(command: list[str]) -> tuple[float, float]:
    """Return CPU seconds and peak memory in MB of a program."""
    process = os.posix_spawn(
        command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, 1, 0)]
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main(folder: Path) -> None:
    """Print the medians of an artifacts folder."""
    manifest = Manifest.read(folder)
    with tempfile.TemporaryDirectory() as temporary:
        tensors = str(Path(temporary) / "images.safetensors")
        shape = (1, manifest.batch_size, 3, *manifest.image_size)
        save_file({"images": np.zeros(shape, np.uint8)}, tensors)
        step = {"batch": 0, "targets": [], "lr": [0.001] * 3}
        request = {"do": "train", "folder": str(folder), "tensors": tensors}
        for what, steps in (("open", []), ("open and a step", [step])):
            path = str(Path(temporary) / "request.json")
            Path(path).write_text(json.dumps(request | {"steps": steps}))
            programs = {
                "C++": [str(ROOT / "build" / "cpp" / "tests" / "probe"), path],
                "Python": [sys.executable, "-c", PYTHON, path],
            }
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
            for _ in range(ROUNDS):
                for name, command in programs.items():
                    found[name].append(run(command))
            for name, results in found.items():
                seconds, megabytes = map(statistics.median, zip(*results, strict=True))
                print(f"{what}, {name}: {seconds:.2f} s of CPU time, {megabytes:.0f} MB")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

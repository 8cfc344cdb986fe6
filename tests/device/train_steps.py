"""Train some steps, and write down where they led: for a comparison of Pythons and machines.

    python -m tests.device.train_steps build/device build/steps/py310 sgd small-adamw

For each case, a folder that `make_artifacts` exported, the states after the steps are written to
`sgd.safetensors` and so on. Losses, the digests of the states, and what ran here are in
`record.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported

import numpy as np
import onnxruntime
from safetensors.numpy import load_file, save_file

from exportloss.runtime import TrainSession, TrainState

Tensors = dict[str, np.ndarray]


def train(
    folder: Path, batches: Tensors, settings: dict[str, float]
) -> tuple[list[float], Tensors]:
    """Return the loss of each step, on one thread, and all tensors of the state after the last."""
    session = TrainSession.open(folder, threads=1)
    height, width = session.manifest.image_size
    images = np.ascontiguousarray(batches["images"][..., :height, :width])
    steps = zip(images, batches["targets"], strict=True)
    losses = [session.step(*batch, **settings).loss for batch in steps]
    return losses, dict(tensors_of(session.state()))


def tensors_of(state: TrainState) -> Iterator[tuple[str, np.ndarray]]:
    for part, tensors in {"model": state.model, "ema": state.ema or {}, **state.optimizer}.items():
        yield from ((f"{part}/{name}", tensor) for name, tensor in tensors.items())
    yield "balance", state.balance


def digest(tensors: Tensors) -> str:
    """Return the SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        found.update(tensor.tobytes())
    return found.hexdigest()


def main(device: Path, output: Path, *cases: str) -> None:
    batches = load_file(device / "batches.safetensors")
    settings = json.loads((device / "expected.json").read_text())["settings"]
    output.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "cases": {},
    }
    for case in cases:
        losses, tensors = train(device / case, batches, settings)
        save_file(tensors, output / f"{case}.safetensors")
        record["cases"][case] = {"losses": losses, "sha256": digest(tensors)}
    (output / "record.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])

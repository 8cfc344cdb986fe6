"""A long training: `python -m tests.support.long_run ARTIFACT STEPS EVERY` prints JSON.

It trains STEPS steps in one session and in sessions that are saved, closed and opened again EVERY
steps. `memory` is the resident memory after each EVERY steps of the first, in bytes; `differences`
names what of the two states differs in a bit.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.runtime import StepResult, TrainSession, TrainState

ACCUMULATE = 2  # steps an update


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def step(session: TrainSession, number: int) -> StepResult:
    """Train on the batch of a step, with the settings of a step."""
    manifest, rng = session.manifest, np.random.default_rng(number)
    images = rng.integers(0, 256, (manifest.batch_size, 3, *manifest.image_size), np.uint8)
    rows = np.zeros((4, 6), np.float32)
    rows[:, 0] = rng.integers(0, manifest.batch_size, 4)
    rows[:, 1] = rng.integers(0, manifest.num_classes, 4)
    rows[:, 2:] = rng.uniform(0.2, 0.8, (4, 4))
    update = number % ACCUMULATE == ACCUMULATE - 1
    return session.step(images, rows, lr=1e-3, momentum=0.9, max_norm=10.0, update=update)


def run(folder: Path, steps: int, every: int) -> dict[str, Any]:
    memory, losses = [], []
    session = TrainSession.open(folder, threads=1)
    for number in range(steps):
        losses.append(step(session, number).loss)
        if (number + 1) % every == 0:
            memory.append(resident())
    whole = tensors(session.state())
    differences = []
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "state.safetensors"
        TrainSession.open(folder, threads=1).save(saved)
        for start in range(0, steps, every):
            session = TrainSession.open(folder, threads=1).resume(saved)
            for number in range(start, start + every):
                if step(session, number).loss != losses[number]:
                    differences.append(f"loss of step {number}")
            session.save(saved)
            del session
        again = tensors(TrainSession.open(folder, threads=1).resume(saved).state())
    differences += [name for name, content in whole.items() if again.get(name) != content]
    return {
        "memory": memory,
        "differences": differences,
        "updates": json.loads(whole["updates"]),
        "skipped": json.loads(whole["skipped"]),
        "first_losses": float(np.mean(losses[:every])),
        "last_losses": float(np.mean(losses[-every:])),
    }


def tensors(state: TrainState) -> dict[str, bytes]:
    """All bits of a state, by name."""
    found: dict[str, bytes] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, np.ndarray):
            found[name] = value.tobytes()
        elif isinstance(value, int):
            found[name] = str(value).encode()
        else:
            for key, inner in value.items():
                add(f"{name}/{key}", inner)

    for field in dataclasses.fields(state):
        add(field.name, getattr(state, field.name))
    return found


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), *map(int, sys.argv[2:]))))

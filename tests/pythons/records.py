"""What `tests.device.train_steps` wrote in each environment, and how far two of them differ."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

STEPS = Path(__file__).parents[2] / "build" / "steps"
# Python 3.11 with the newest onnxruntime, and with the training build.
REFERENCES = ("device", "training")


@dataclasses.dataclass(frozen=True)
class Record:
    """Steps that were trained in an environment.

    Attributes:
        folder: Folder with the states.
        python: Version of Python.
        machine: Processor, such as `x86_64`.
        onnxruntime: Version of the engine.
        numpy: Version of numpy.
        cases: Losses of the steps and digest of the last state, by case.
    """

    folder: Path
    python: str
    machine: str
    onnxruntime: str
    numpy: str
    cases: Mapping[str, Mapping[str, Any]]

    def __str__(self) -> str:
        return f"Python {self.python} {self.machine}, onnxruntime {self.onnxruntime}"

    @property
    def engine(self) -> tuple[str, str]:
        """What decides the bits."""
        return self.machine, self.onnxruntime

    def tensors(self, case: str) -> dict[str, np.ndarray]:
        return load_file(self.folder / f"{case}.safetensors")


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of two records in one case.

    Attributes:
        same_bits: Whether all losses and all tensors of the states are equal.
        loss: Largest relative difference of a loss.
        parts: Of each part of the state, such as `model`, the relative L2 difference of all its
            tensors as one vector.
    """

    same_bits: bool
    loss: float
    parts: Mapping[str, float]


def read_records(folder: Path = STEPS) -> list[Record]:
    files = sorted(folder.glob("*/record.json"))
    return [Record(folder=path.parent, **json.loads(path.read_text())) for path in files]


def pairs(records: list[Record]) -> Iterator[tuple[Record, Record, str]]:
    """Yield the cases that a record shares with a reference, or with another of its engine."""
    for one, other in itertools.combinations(records, 2):
        first, second = sorted((one, other), key=lambda record: record.folder.name in REFERENCES)
        if second.folder.name in REFERENCES or one.engine == other.engine:
            yield from ((first, second, case) for case in first.cases if case in second.cases)


def difference(one: Record, other: Record, case: str) -> Difference:
    mine, theirs = one.tensors(case), other.tensors(case)
    assert mine.keys() == theirs.keys()
    parts = {name.partition("/")[0] for name in mine}
    first, second = (np.array(record.cases[case]["losses"]) for record in (one, other))
    return Difference(
        same_bits=one.cases[case] == other.cases[case],
        loss=float(np.max(np.abs(first - second) / np.abs(second))),
        parts={part: _relative(mine, theirs, part) for part in sorted(parts)},
    )


def _relative(mine: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], part: str) -> float:
    names = [name for name in mine if name.partition("/")[0] == part]
    first, second = (
        np.concatenate([tensors[name].ravel() for name in names]).astype(np.float64)
        for tensors in (mine, theirs)
    )
    return float(np.linalg.norm(first - second) / (np.linalg.norm(second) or 1.0))

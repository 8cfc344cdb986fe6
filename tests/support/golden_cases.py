"""Golden cases, as `tests/golden/README.md` describes them, and what a runner gives for one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exportloss import LossConfig, YoloLoss, pad_targets
from exportloss.balance import initial_balance

Floats = NDArray[np.float32]

_SLOTS = 64  # a graph's target rows are a multiple of it, so that more cases share a graph


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossGraph:
    """What a graph of the loss is fixed to; cases that have it in common share exports."""

    config: LossConfig
    num_classes: int
    anchors_px: tuple[tuple[tuple[float, ...], ...], ...]  # (nl, na, 2)
    strides: tuple[float, ...]  # (nl,)
    shapes: tuple[tuple[int, ...], ...]  # each (B, na, H, W, 5 + nc)
    max_targets: int

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.shapes[0][2:4]
        return height * int(self.strides[0]), width * int(self.strides[0])

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of that name of every export."""
        return {
            "image_size": self.image_size,
            "batch_size": self.shapes[0][0],
            "max_targets": self.max_targets,
        }

    def make_loss(self) -> YoloLoss:
        return YoloLoss(self.anchors_px, self.strides, self.num_classes, self.config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenStep:
    """Inputs of one step, and what it gives besides loss, items and balance."""

    predictions: tuple[Floats, ...]  # each (B, na, H, W, 5 + nc)
    targets: Floats  # (n, 6)
    gradients: tuple[Floats, ...]  # d loss / d predictions
    matches: NDArray[np.int64]  # (nl,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GoldenCase:
    """A loss object and a sequence of steps with the values that the original gave for them."""

    name: str
    config: LossConfig
    num_classes: int
    anchors_px: Floats  # (nl, na, 2)
    strides: Floats  # (nl,)
    steps: tuple[GoldenStep, ...]
    loss: Floats  # (steps,)
    items: Floats  # (steps, 3)
    balance: NDArray[np.float64]  # (steps, nl), after each step

    @property
    def num_levels(self) -> int:
        return len(self.strides)

    @property
    def initial_balance(self) -> Floats:
        """(nl,) before the first step."""
        return np.asarray(initial_balance(self.num_levels), np.float32)

    @property
    def graph(self) -> LossGraph:
        most = max(len(step.targets) for step in self.steps)
        return LossGraph(
            config=self.config,
            num_classes=self.num_classes,
            anchors_px=tuple(tuple(map(tuple, level)) for level in self.anchors_px.tolist()),
            strides=tuple(self.strides.tolist()),
            shapes=tuple(level.shape for level in self.steps[0].predictions),
            max_targets=(most // _SLOTS + 1) * _SLOTS,  # more than any step has
        )

    def padded(self, step: GoldenStep) -> Floats:
        """The step's targets, (max_targets, 6)."""
        graph = self.graph
        return pad_targets(
            step.targets,
            graph.max_targets,
            batch_size=graph.shapes[0][0],
            num_classes=graph.num_classes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepResult:
    """What an implementation gives for one step; `matches` is None where it cannot tell."""

    loss: float
    items: NDArray[Any]  # (3,)
    gradients: tuple[NDArray[Any], ...]
    balance: NDArray[Any]  # (nl,), after the step
    matches: NDArray[np.int64] | None = None


Runner = Callable[[GoldenCase], Iterator[StepResult]]


def find_cases(folder: Path) -> list[Path]:
    """Return the files of `folder` that hold a loss case, sorted by name.

    Raises:
        ValueError: the folder is missing, holds no case, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with .npz files of loss cases")
    paths = [path for path in sorted(folder.glob("*.npz")) if _holds_case(path)]
    if not paths:
        raise ValueError(
            f"{folder} holds no loss case: expected .npz files with a `config` array, "
            f"got {sorted(path.name for path in folder.iterdir()) or 'an empty folder'}"
        )
    return paths


@functools.cache
def load(path: Path) -> GoldenCase:
    """Read one loss case."""
    with _open(path) as arrays:
        about = json.loads(str(arrays["config"]))
        options = about["options"]
        levels = range(about["nl"])
        return GoldenCase(
            name=path.stem,
            config=LossConfig(
                **about["hyp"],
                gr=options.get("gr", 1.0),
                sort_obj_iou=options.get("sort", False),
                autobalance=options.get("autobalance", False),
            ),
            num_classes=about["nc"],
            anchors_px=arrays["anchors_px"],
            strides=arrays["strides"],
            steps=tuple(
                GoldenStep(
                    predictions=tuple(arrays[f"step{k}_p{i}"] for i in levels),
                    targets=arrays[f"step{k}_targets"],
                    gradients=tuple(arrays[f"step{k}_g{i}"] for i in levels),
                    matches=arrays[f"step{k}_matches"],
                )
                for k in range(about["steps"])
            ),
            loss=arrays["loss"],
            items=arrays["items"],
            balance=arrays["balance"],
        )


def _holds_case(path: Path) -> bool:
    with _open(path) as arrays:
        return "config" in arrays


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a loss case: {error}") from error

"""Cases of the anchor-free loss: golden ones, as `tests/golden-anchor-free/README.md` describes
them, and random ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exportloss import TaskAlignedConfig, TaskAlignedLoss, pad_targets
from exportloss.random_batches import draw_targets

Floats = NDArray[np.float32]

_ROWS = 64  # a graph's target rows are a multiple of it, so that more cases share a graph
_PROFILES = {"8.4.190": "8.4", "8.3.0": "8.3"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskAlignedGraph:
    """What a graph of the loss is fixed to; cases that have it in common share exports."""

    config: TaskAlignedConfig
    num_classes: int
    strides: tuple[int, ...]
    batch_size: int
    image_size: tuple[int, int]
    max_targets: int

    @property
    def sizes(self) -> dict[str, Any]:
        """The arguments of that name of every export."""
        names = ("batch_size", "image_size", "max_targets")
        return {name: getattr(self, name) for name in names}

    def make_loss(self) -> TaskAlignedLoss:
        return TaskAlignedLoss(self.strides, self.num_classes, self.config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskAlignedCase:
    """Inputs of one batch."""

    graph: TaskAlignedGraph
    maps: tuple[Floats, ...]  # each (B, 4 R + nc, H, W)
    targets: Floats  # (n, 6)

    def padded(self) -> Floats:
        """The targets, (max_targets, 6)."""
        graph = self.graph
        return pad_targets(
            self.targets,
            graph.max_targets,
            batch_size=graph.batch_size,
            num_classes=graph.num_classes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assigned:
    """Which cells learn what, over the A cells of all levels."""

    weight: Floats  # (B, A), 0 for background
    row: NDArray[np.int64]  # (B, A) target row; -1 for background


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskAlignedResult:
    """What an implementation gives for a case; `assigned` is None where it cannot tell."""

    loss: float
    terms: NDArray[Any]  # (3,)
    gradients: tuple[NDArray[Any], ...]
    assigned: Assigned | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskAlignedGolden(TaskAlignedCase):
    """A case with the values that the original gave for it."""

    name: str
    wanted: TaskAlignedResult


def find_cases(folder: Path) -> list[Path]:
    """Return the golden cases of a folder, sorted by name.

    Raises:
        ValueError: the folder is missing or holds no case.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with .npz files of loss cases")
    if not (paths := sorted(folder.glob("*.npz"))):
        raise ValueError(f"{folder} holds no .npz file; expected loss cases")
    return paths


@functools.cache
def load(path: Path) -> TaskAlignedGolden:
    """Read a golden case."""
    with np.load(path) as arrays:
        strides = tuple(arrays["strides"].tolist())
        levels = range(len(strides))
        maps = tuple(arrays[f"maps_{i}"] for i in levels)
        targets = arrays["targets"]
        box, category, distance = arrays["gains"].tolist()
        config = TaskAlignedConfig(
            box=box,
            cls=category,
            dfl=distance,
            profile=_PROFILES[str(arrays["profile"])],  # type: ignore[arg-type]
            **{name: int(arrays[name]) for name in ("reg_max", "topk", "topk2")},
        )
        return TaskAlignedGolden(
            name=path.stem,
            graph=_graph(config, int(arrays["num_classes"]), strides, maps, len(targets)),
            maps=maps,
            targets=targets,
            wanted=TaskAlignedResult(
                loss=float(arrays["loss"]),
                terms=arrays["items"],
                gradients=tuple(arrays[f"gradient_{i}"] for i in levels),
                assigned=_golden_assigned(
                    arrays["score"], arrays["foreground"], arrays["target_index"], targets
                ),
            ),
        )


def _golden_assigned(
    score: Floats, foreground: NDArray[Any], index: NDArray[np.int64], targets: Floats
) -> Assigned:
    # The original counts a target's index within its image.
    first = np.searchsorted(targets[:, 0], np.arange(len(score)))
    learns = foreground & (score > 0)
    return Assigned(weight=score * learns, row=np.where(learns, index + first[:, None], -1))


def _graph(
    config: TaskAlignedConfig,
    num_classes: int,
    strides: tuple[int, ...],
    maps: Sequence[Floats],
    rows: int,
) -> TaskAlignedGraph:
    batch, _, height, width = maps[0].shape
    return TaskAlignedGraph(
        config=config,
        num_classes=num_classes,
        strides=strides,
        batch_size=batch,
        image_size=(height * strides[0], width * strides[0]),
        max_targets=(rows // _ROWS + 1) * _ROWS,  # more than the case has
    )


def run_loss(loss: Any, case: TaskAlignedCase, targets: Floats) -> TaskAlignedResult:
    """Run a loss in torch; the assignment is not told."""
    maps = [torch.tensor(level, requires_grad=True) for level in case.maps]
    result = loss(maps, torch.from_numpy(targets))
    gradients = torch.autograd.grad(result.loss, maps)
    return TaskAlignedResult(
        loss=result.loss.item(),
        terms=result.terms.numpy(),
        gradients=tuple(gradient.numpy() for gradient in gradients),
    )


def run_eager(case: TaskAlignedCase) -> TaskAlignedResult:
    loss = case.graph.make_loss().reference()
    found = loss.assign([torch.from_numpy(m) for m in case.maps], torch.from_numpy(case.targets))
    weight = found.weight.numpy()
    assigned = Assigned(weight=weight, row=np.where(weight > 0, found.row.numpy(), -1))
    return dataclasses.replace(run_loss(loss, case, case.targets), assigned=assigned)


def run_static(case: TaskAlignedCase) -> TaskAlignedResult:
    loss = case.graph.make_loss()
    padded = case.padded()
    found = loss.assign([torch.from_numpy(m) for m in case.maps], torch.from_numpy(padded))
    learns = (found.weight > 0).numpy()
    where = found.image.numpy()[learns], found.cell.numpy()[learns]
    assert len(set(zip(*where, strict=True))) == learns.sum(), "a cell learns twice"
    cells = sum(level.shape[2] * level.shape[3] for level in case.maps)
    weight = np.zeros((case.graph.batch_size, cells), np.float32)
    row = np.full(weight.shape, -1, np.int64)
    weight[where], row[where] = found.weight.numpy()[learns], found.row.numpy()[learns]
    return dataclasses.replace(
        run_loss(loss, case, padded), assigned=Assigned(weight=weight, row=row)
    )


def draw_case(seed: int) -> TaskAlignedCase:
    """Draw a small case: any profile and options, with equal values in many of them."""
    rng = np.random.default_rng(seed)
    batch, classes = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    strides = ((8, 16, 32), (8, 16), (4, 8, 16, 32))[rng.integers(3)]
    grid = strides[-1] // strides[0] * rng.integers(1, 5, 2)  # (H, W) of the finest level
    topk = int(rng.choice([10, 7, 3, 1]))
    config = TaskAlignedConfig(
        profile=str(rng.choice(["8.4", "8.3", "yolov9"])),  # type: ignore[arg-type]
        reg_max=int(rng.choice([16, 16, 8, 1])),
        topk=topk,
        topk2=int(rng.choice([10, topk, min(2, topk), 1])),
    )
    channels = 4 * config.reg_max + classes
    count = int(rng.choice([0, 1, 5, 20, 60]))
    targets = draw_targets(rng, count, batch_size=batch, num_classes=classes)
    if rng.random() < 0.3:  # rows twice, with another class
        targets = np.repeat(targets[: count // 2], 2, axis=0)
        targets[::2, 1] = rng.integers(0, classes, len(targets[::2]))
    if rng.random() < 0.3:  # on the borders and centres of cells
        steps = np.array([*grid[::-1], *grid[::-1]], np.float32) * 2
        targets[:, 2:] = np.round(targets[:, 2:] * steps) / steps
    if rng.random() < 0.2:  # tiny
        targets[:, 4:] /= 16
    maps = []
    kind = rng.choice(["noise", "far", "classes", "channels", "zero"], p=[0.4, 0.2, 0.2, 0.1, 0.1])
    for stride in strides:
        shape = (batch, channels, *(grid * strides[0] // stride))
        level = np.zeros(shape, np.float32)
        if kind in ("noise", "far"):
            level = rng.normal(0, 3 if kind == "far" else 1, shape).astype(np.float32)
        elif kind == "channels":
            level += np.random.default_rng(seed).normal(0, 1, (channels, 1, 1)).astype(np.float32)
        elif kind == "classes":
            level[:, -classes:] = rng.integers(-1, 2, (batch, classes, *shape[2:]))
        if config.reg_max == 1:  # boxes of some cells, instead of none
            level[:, :4] += rng.choice([1.5, 3.0])
        maps.append(level)
    return TaskAlignedCase(
        graph=_graph(config, classes, tuple(strides), maps, len(targets)),
        maps=tuple(maps),
        targets=targets,
    )

"""Draw which cells learn which target, in YOLOv5's loss and in the task-aligned one.

    python scripts/draw_assignment.py docs/images/assignment.png

The predictions are drawn at random around the targets, like those of a half-trained detector.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from exportloss import TaskAlignedLoss, pad_targets
from exportloss.loss.matching import match
from exportloss.models import yolov5

SIZE, STRIDES, CLASSES, BINS = 256, (8, 16, 32), 3, 16
# image, class, centre x, centre y, width, height: a large box, a small one on it, and a flat one
ROWS = [
    [0, 0, 0.41, 0.42, 0.66, 0.62],
    [0, 1, 0.30, 0.33, 0.16, 0.19],
    [0, 2, 0.66, 0.86, 0.55, 0.14],
]
COLOURS = ("#2563eb", "#ea580c", "#059669")
_CELLS_PER_BOX = 6  # side of the boxes that a level predicts best
_BINS_APART = 2.0  # logit of a bin next to the predicted distance, above one further away

Cells = list[Tensor]  # per level: (H, W, rows) of how much a cell learns a row, 0 to 1


def yolov5_cells(targets: Tensor) -> Cells:
    """Return where YOLOv5's loss matches the rows; its matches do not depend on predictions."""
    anchors = yolov5("yolov5n", CLASSES).anchors_px
    strides = torch.tensor(STRIDES, dtype=torch.float32)
    grids = [(SIZE // s, SIZE // s) for s in STRIDES]
    slots = match(
        targets,
        anchors / strides[:, None, None],
        batch_size=1,
        grids=grids,
        num_classes=CLASSES,
        anchor_t=4.0,
    )
    cells = []
    for level, (height, width) in enumerate(grids):
        learns = torch.zeros(height * width, len(targets))
        for slot, row in (slots.weight[level].sum(0) > 0).nonzero().tolist():
            learns[slots.cell[level, slot, row], row] = 1
        cells.append(learns.reshape(height, width, -1))
    return cells


def task_aligned_cells(targets: Tensor) -> Cells:
    """Return how much each cell learns of the rows, for predictions of a half-trained detector."""
    loss = TaskAlignedLoss(STRIDES, CLASSES)
    found = loss.assign([half_trained_map(targets, stride) for stride in STRIDES], targets)
    every = torch.zeros(sum((SIZE // s) ** 2 for s in STRIDES), len(targets))
    every[found.cell[found.learns], found.row[found.learns]] = found.weight[found.learns]
    parts = every.split([(SIZE // s) ** 2 for s in STRIDES])
    return [part.reshape(SIZE // s, SIZE // s, -1) for part, s in zip(parts, STRIDES, strict=True)]


def half_trained_map(targets: Tensor, stride: int) -> Tensor:
    """Return a map whose cells predict the smallest target around them.

    The less a target's size suits the level, the less exact they are.
    """
    generator = torch.Generator().manual_seed(stride)
    cells = SIZE // stride
    x = ((torch.arange(cells) + 0.5) * stride).expand(cells, -1)
    y = x.T
    sides, error = torch.full((4, cells, cells), 2.0), torch.zeros(cells, cells)
    scores = torch.full((CLASSES, cells, cells), -3.0)
    for row in sorted(targets.tolist(), key=lambda row: -row[4] * row[5]):
        _, category, *box = row
        cx, cy, w, h = (value * SIZE for value in box)
        to = torch.stack((x - cx + w / 2, y - cy + h / 2, cx + w / 2 - x, cy + h / 2 - y))
        inside = to.amin(0) > 0
        sides = torch.where(inside, to / stride, sides)
        unsuited = abs(math.log2(math.sqrt(w * h) / (stride * _CELLS_PER_BOX)))
        error = torch.where(inside, 0.03 + 0.07 * unsuited, error)
        near = torch.where(inside, 2.5 * to.amin(0) / to.amax(0), -3.0)
        scores[int(category)] = torch.maximum(scores[int(category)], near)
    sides = sides * (1 + error * torch.randn(sides.shape, generator=generator))
    scores = scores + 0.4 * torch.randn(scores.shape, generator=generator)
    distance = (torch.arange(BINS)[:, None, None] - sides[:, None]).abs()
    bins = -_BINS_APART * distance  # (4, R, H, W)
    return torch.cat((bins.flatten(0, 1), scores))[None]


def draw(axes: Any, learns: Tensor, stride: int) -> None:
    """Draw the cells of a level, and all targets."""
    axes.set(xlim=(0, SIZE), ylim=(SIZE, 0), xticks=[], yticks=[], aspect="equal")
    for position in range(0, SIZE + 1, stride):
        axes.axhline(position, color="#e5e7eb", linewidth=0.4, zorder=0)
        axes.axvline(position, color="#e5e7eb", linewidth=0.4, zorder=0)
    for row, column, target in (learns > 0).nonzero().tolist():
        strength = 0.15 + 0.85 * float(learns[row, column, target])
        place = (column * stride, row * stride)
        colour = COLOURS[target]
        axes.add_patch(Rectangle(place, stride, stride, color=colour, alpha=strength, linewidth=0))
    for (_, _, x, y, w, h), colour in zip(ROWS, COLOURS, strict=True):
        corner = ((x - w / 2) * SIZE, (y - h / 2) * SIZE)
        axes.add_patch(Rectangle(corner, w * SIZE, h * SIZE, fill=False, ec=colour, linewidth=1.4))


def main(path: Path) -> None:
    """Draw both losses, one row of levels each."""
    rows = pad_targets(ROWS, len(ROWS), batch_size=1, num_classes=CLASSES)
    targets = torch.from_numpy(rows)
    losses = {"YOLOv5": yolov5_cells(targets), "task-aligned": task_aligned_cells(targets)}
    figure = Figure(figsize=(7.2, 5.1), dpi=100, layout="constrained")
    panels = figure.subplots(len(losses), len(STRIDES))
    for line, (name, cells) in zip(panels, losses.items(), strict=True):
        for axes, learns, stride in zip(line, cells, STRIDES, strict=True):
            draw(axes, learns, stride)
            axes.set_title(f"{name}, stride {stride}", fontsize=9)
    figure.savefig(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The anchor-free loss with fixed shapes, which can be traced, exported and compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.loss.output import LossOutput
from exportloss.loss.task_aligned.assignment import Assignment, assign
from exportloss.loss.task_aligned.boxes import Boxes, ciou
from exportloss.loss.task_aligned.candidates import TargetBoxes
from exportloss.loss.task_aligned.cells import LevelCells, read_maps
from exportloss.loss.task_aligned.decoding import boxes_around, decode_maps, decode_rows
from exportloss.loss.task_aligned.distances import distribution_focal_loss, l1_of_distances
from exportloss.loss.task_aligned.grid import Grid
from exportloss.loss.task_aligned.reference import EagerTaskAlignedLoss
from exportloss.task_aligned_config import TaskAlignedConfig

__all__ = ["TaskAlignedLoss"]

_MAX_LEVELS = 5


class TaskAlignedLoss(nn.Module):
    """The loss of anchor-free detectors (YOLOv8, YOLOv9, YOLO11, ...) over padded targets.

    Values and gradients equal the original's, with a fixed number of target rows, masks instead of
    filters and no data-dependent control flow. Of equal values the first wins, on every device.
    Loss and gradients are finite for every finite input.

    Args:
        strides: (nl,) input pixels per cell, fine to coarse; nl in 2 to 5.
        num_classes: Number of classes, >= 1.
        config: Options and gains; default `TaskAlignedConfig()`.

    Attributes:
        kind: Name of the loss in manifests.
        terms: Names of the loss terms, in order.
        initial_state: State before the first step; this loss has none.
        settings: Numbers that a step may change, with their defaults; this loss has none.

    Raises:
        ConfigError: the strides are not whole numbers that ascend, or there are too few or many.
    """

    kind: ClassVar[str] = "task-aligned"
    terms: ClassVar[tuple[str, ...]] = ("box", "cls", "dfl")

    def __init__(
        self,
        strides: Tensor | Sequence[float],
        num_classes: int,
        config: TaskAlignedConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config or TaskAlignedConfig()
        self.num_classes = num_classes
        self.strides = _checked_strides(strides)
        at_least(1, num_classes=num_classes)

    @property
    def initial_state(self) -> Mapping[str, Tensor]:
        """State before the first step, by name: none."""
        return {}

    @property
    def settings(self) -> Mapping[str, float]:
        """Numbers that a step may change, by name: none."""
        return {}

    def as_pairwise(self) -> TaskAlignedLoss:
        """Return this loss: it has one form for every device."""
        return self

    def forward(
        self,
        predictions: Sequence[Tensor],
        targets: Tensor,
        state: Mapping[str, Tensor] | None = None,
        settings: Mapping[str, Tensor] | None = None,
    ) -> LossOutput:
        """Compute the loss of a batch.

        Args:
            predictions: Raw outputs of the head, one map per level, fine to coarse:
                (B, 4 R + nc, H, W), the R bins of left, of top, of right and of bottom, then the
                logits of the classes.
            targets: (max_targets, 6) from `pad_targets`.
            state: State of the loss; None or empty.
            settings: Settings of the step; None or empty.

        Returns:
            The loss, its terms box, cls and dfl, and an empty state.

        Raises:
            ConfigError: the number or the shapes of the maps are wrong.
        """
        self._check(predictions)
        dtype = torch.promote_types(predictions[0].dtype, torch.float32)
        maps = [level.to(dtype) for level in predictions]
        grid = Grid.of(maps, self.strides)
        found_rows = self._read_targets(maps, grid, targets)
        found = self._assign(maps, grid, found_rows)
        levels = LevelCells.of_levels(
            grid,
            image=found.image,
            cell=found.cell,
            learns=found.learns,
            category=found_rows.category.index_select(0, found.row),
            batch_size=len(maps[0]),
            num_classes=self.num_classes,
            reg_max=self.config.reg_max,
        )
        rows, background = read_maps(maps, levels, reg_max=self.config.reg_max)
        # The logits of slots that do not learn are replaced: a NaN times a weight of 0 is NaN.
        rows = torch.where(found.learns[:, None], rows, 0.0)
        bins = rows[:, :-1].reshape(-1, 4, self.config.reg_max)
        overlap, distance = self._of_boxes(bins, found, found_rows, grid)

        total = found.weight.sum().clamp(min=1.0)
        box = (found.weight * (1 - overlap)).sum() / total * self.config.box
        category = (background - (found.weight * rows[:, -1]).sum()) / total * self.config.cls
        spread = (found.weight * distance).sum() / total * self.config.dfl
        terms = torch.stack((box, category, spread))
        return LossOutput(terms.sum() * len(maps[0]), terms.detach(), {})

    def assign(self, predictions: Sequence[Tensor], targets: Tensor) -> Assignment:
        """Return which cells learn which target rows; the arguments are those of `forward`."""
        self._check(predictions)
        maps = [level.float() for level in predictions]
        grid = Grid.of(maps, self.strides)
        return self._assign(maps, grid, self._read_targets(maps, grid, targets))

    def reference(self) -> EagerTaskAlignedLoss:
        """Return the same loss with dynamic shapes, to compare with."""
        return EagerTaskAlignedLoss(self.strides, self.num_classes, self.config)

    def _read_targets(self, maps: Sequence[Tensor], grid: Grid, targets: Tensor) -> TargetBoxes:
        return TargetBoxes.of(
            targets,
            batch_size=len(maps[0]),
            num_classes=self.num_classes,
            image_size=grid.image_size,
        ).without_padding()

    def _assign(self, maps: Sequence[Tensor], grid: Grid, targets: TargetBoxes) -> Assignment:
        detached = [level.detach() for level in maps]
        boxes = decode_maps(detached, grid, reg_max=self.config.reg_max)
        return assign(detached, boxes, targets, grid, self.config)

    def _of_boxes(
        self, bins: Tensor, found: Assignment, targets: TargetBoxes, grid: Grid
    ) -> tuple[Tensor, Tensor]:
        """Compute the complete IoU and the distance loss of each slot.  # (S,), (S,)"""
        x, y, stride = (
            values.index_select(0, found.cell) for values in (grid.x, grid.y, grid.stride)
        )
        corners = targets.boxes.map(lambda values: values[:, 0].index_select(0, found.row) / stride)
        # A box of two cells around the point stands for the target of slots that do not learn.
        x1, y1, x2, y2 = (
            torch.where(found.learns, side, point + shift)
            for side, point, shift in (
                (corners.x1, x, -1.0),
                (corners.y1, y, -1.0),
                (corners.x2, x, 1.0),
                (corners.y2, y, 1.0),
            )
        )
        distances = decode_rows(bins)
        overlap = ciou(
            boxes_around(x, y, distances),
            Boxes.of_corners(x1, y1, x2, y2),
            inside_out=self.config.reg_max == 1,
        )
        wanted = torch.stack((x - x1, y - y1, x2 - x, y2 - y), dim=1)  # (S, 4)
        if self.config.reg_max > 1:
            return overlap, distribution_focal_loss(bins, wanted)
        height, width = grid.image_size
        fraction = torch.stack((stride / width, stride / height) * 2, dim=1)  # (S, 4)
        return overlap, l1_of_distances(bins[:, :, 0], wanted, fraction)

    def _check(self, predictions: Sequence[Tensor]) -> None:
        """Check the number and shapes of the maps; a traced graph contains none of it."""
        channels = 4 * self.config.reg_max + self.num_classes
        if len(predictions) != len(self.strides):
            raise ConfigError(
                f"got {len(predictions)} prediction maps, expected {len(self.strides)}"
            )
        size: tuple[int, int] | None = None
        for i, (level, stride) in enumerate(zip(predictions, self.strides, strict=True)):
            if level.ndim != 4 or level.shape[1] != channels:
                raise ConfigError(
                    f"prediction map {i} has shape {tuple(level.shape)}, expected "
                    f"(B, {channels}, H, W)"
                )
            covered = level.shape[2] * stride, level.shape[3] * stride
            size = size or covered
            if covered != size:
                raise ConfigError(
                    f"prediction map {i} of stride {stride} covers {covered} pixels, expected "
                    f"{size} as map 0 does"
                )


def _checked_strides(strides: Tensor | Sequence[float]) -> tuple[int, ...]:
    values = torch.as_tensor(strides, dtype=torch.float64).detach().tolist()
    if not isinstance(values, list) or not 2 <= len(values) <= _MAX_LEVELS:
        raise ConfigError(f"got strides {values}, expected 2 to {_MAX_LEVELS} of them")
    whole = [int(value) for value in values]
    if whole != values or whole[0] < 1 or whole != sorted(set(whole)):
        raise ConfigError(f"got strides {values}, expected whole numbers of pixels that ascend")
    return tuple(whole)

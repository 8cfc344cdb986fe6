"""The anchor-free loss with dynamic shapes: image by image, with masks and lists of cells.

It is the reference for `exportloss.TaskAlignedLoss`, of which it shares the settings and nothing
else: it decodes, assigns and sums on its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from exportloss.loss.output import LossOutput
from exportloss.task_aligned_config import TaskAlignedConfig

__all__ = ["Assignment", "EagerTaskAlignedLoss"]


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Cells that learn a target, over the A cells of all levels.

    Attributes:
        foreground: (B, A) bool, whether a cell learns a target.
        row: (B, A) int64 index of its target row; 0 for background.
        weight: (B, A) target of its class's probability, in [0, 1]; 0 for background.
    """

    foreground: Tensor
    row: Tensor
    weight: Tensor


class EagerTaskAlignedLoss(nn.Module):
    """The task-aligned loss in plain torch, with shapes that depend on the targets.

    Args:
        strides: (nl,) input pixels per cell.
        num_classes: Number of classes, >= 1.
        config: Options and gains.
    """

    def __init__(
        self, strides: Sequence[int], num_classes: int, config: TaskAlignedConfig | None = None
    ) -> None:
        super().__init__()
        self.strides, self.num_classes = tuple(strides), num_classes
        self.config = config or TaskAlignedConfig()

    def forward(
        self,
        predictions: Sequence[Tensor],
        targets: Tensor,
        state: Mapping[str, Tensor] | None = None,
        settings: Mapping[str, Tensor] | None = None,
    ) -> LossOutput:
        """Compute the loss of a batch; the arguments are those of `TaskAlignedLoss`.

        Args:
            predictions: (B, 4 R + nc, H, W) maps, one per level.
            targets: (n, 6) rows, padded or not.
            state: Ignored: the loss has no state.
            settings: Ignored: the loss has no settings.
        """
        logits = torch.cat([level.flatten(2) for level in predictions], 2).transpose(1, 2)
        distances, scores = torch.split(logits, [4 * self.config.reg_max, self.num_classes], 2)
        points, strides = self._points(predictions)  # (A, 2) in cells, (A, 1)
        boxes = self._decode(distances, points)  # (B, A, 4) corners in cells
        size = self._image_size(predictions)
        corners = _corners(targets, size)
        found = self._assign(scores, boxes * strides, targets, corners, points, strides)

        total = found.weight.sum().clamp(min=1)
        wanted = torch.zeros_like(scores)
        image, cell = found.foreground.nonzero(as_tuple=True)
        row, weight = found.row[image, cell], found.weight[image, cell]
        wanted[image, cell, targets[row, 1].long()] = weight
        category = functional.binary_cross_entropy_with_logits(scores, wanted, reduction="sum")

        box = distance = scores.new_zeros(())
        if len(image):
            goal = corners[row] / strides[cell]  # (n, 4) in cells
            overlap = _ciou(boxes[image, cell], goal)
            box = ((1 - overlap) * weight).sum()
            distance = (
                self._distance_term(distances[image, cell], goal, points[cell], strides[cell], size)
                * weight
            ).sum()
        config = self.config
        terms = torch.stack((box * config.box, category * config.cls, distance * config.dfl))
        terms = terms / total
        return LossOutput(terms.sum() * len(logits), terms.detach(), {})

    def assign(self, predictions: Sequence[Tensor], targets: Tensor) -> Assignment:
        """Return which cells learn which target rows.

        Args:
            predictions: (B, 4 R + nc, H, W) maps, one per level.
            targets: (n, 6) rows, padded or not.
        """
        logits = torch.cat([level.detach().flatten(2) for level in predictions], 2).transpose(1, 2)
        distances, scores = torch.split(logits, [4 * self.config.reg_max, self.num_classes], 2)
        points, strides = self._points(predictions)
        corners = _corners(targets, self._image_size(predictions))
        boxes = self._decode(distances, points) * strides
        return self._assign(scores, boxes, targets, corners, points, strides)

    def _image_size(self, predictions: Sequence[Tensor]) -> Tensor:
        height, width = (side * self.strides[0] for side in predictions[0].shape[2:])
        return predictions[0].new_tensor((width, height))

    def _points(self, predictions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        points, strides = [], []
        for level, stride in zip(predictions, self.strides, strict=True):
            rows, columns = (torch.arange(side, device=level.device) for side in level.shape[2:])
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            points.append(torch.stack((x, y), 2).reshape(-1, 2).to(level.dtype) + 0.5)
            strides.append(level.new_full((len(points[-1]), 1), stride))
        return torch.cat(points), torch.cat(strides)

    def _decode(self, distances: Tensor, points: Tensor) -> Tensor:
        bins = self.config.reg_max
        if bins > 1:
            shares = distances.reshape(*distances.shape[:-1], 4, bins).softmax(-1)
            distances = shares @ torch.arange(bins, dtype=shares.dtype, device=shares.device)
        before, behind = distances.chunk(2, -1)
        return torch.cat((points - before, points + behind), -1)

    def _distance_term(
        self, logits: Tensor, goal: Tensor, points: Tensor, strides: Tensor, size: Tensor
    ) -> Tensor:
        wanted = torch.cat((points - goal[:, :2], goal[:, 2:] - points), 1)  # (n, 4) in cells
        bins = self.config.reg_max
        if bins == 1:
            return ((logits - wanted) * strides / size.repeat(2)).abs().mean(1)
        wanted = wanted.clamp(0, bins - 1.01)
        low = wanted.long()
        rest = wanted - low
        log_p = logits.reshape(-1, 4, bins).log_softmax(2)
        at_low, at_high = (log_p.gather(2, (low + k)[..., None])[..., 0] for k in (0, 1))
        return -(at_low * (1 - rest) + at_high * rest).mean(1)

    @torch.no_grad()
    def _assign(  # noqa: PLR0917
        self,
        scores: Tensor,
        boxes: Tensor,
        targets: Tensor,
        corners: Tensor,
        points: Tensor,
        strides: Tensor,
    ) -> Assignment:
        batch, cells = scores.shape[:2]
        foreground = torch.zeros(batch, cells, dtype=torch.bool, device=scores.device)
        row, weight = foreground.long(), foreground.to(scores.dtype)
        exists = corners.sum(1) > 0
        for image in range(batch):
            mine = (exists & (targets[:, 0] == image)).nonzero()[:, 0]
            if len(mine):
                candidate = self._candidates(corners[mine], points, strides)
                category = targets[mine, 1].long()
                found = self._assign_image(
                    scores[image], boxes[image], category, corners[mine], candidate
                )
                foreground[image], weight[image] = found.foreground, found.weight
                row[image] = torch.where(found.foreground, mine[found.row], 0)
        return Assignment(foreground, row, weight)

    def _assign_image(
        self, scores: Tensor, boxes: Tensor, category: Tensor, corners: Tensor, candidate: Tensor
    ) -> Assignment:
        config, is_yolov9 = self.config, self.config.profile == "yolov9"
        row, cell = torch.ones_like(candidate).nonzero(as_tuple=True)
        if not is_yolov9:
            row, cell = candidate.nonzero(as_tuple=True)
        overlap = boxes.new_zeros(candidate.shape)
        overlap[row, cell] = _ciou(boxes[cell], corners[row]).clamp(min=0)
        metric = boxes.new_zeros(candidate.shape)
        metric[row, cell] = scores[cell, category[row]].sigmoid().sqrt() * overlap[row, cell] ** 6

        selected = _best(torch.where(candidate, metric, 0), config.topk) & candidate
        if is_yolov9:
            selected &= metric > 0
            rescued = ~selected.any(1) & (metric.amax(1) > 0)
            selected |= _best(metric, 1) & rescued[:, None]
        shared = selected.sum(0) > 1
        rival = torch.where(selected, overlap, -1) if is_yolov9 else overlap
        winner = functional.one_hot(_first_largest(rival.T), len(corners)).T.bool()  # (n, A)
        selected = torch.where(shared, winner, selected)
        if config.topk2 < config.topk:
            selected &= _best(torch.where(selected, metric, 0), config.topk2)

        metric, overlap = metric * selected, overlap * selected
        scale = overlap.amax(1, keepdim=True) / (metric.amax(1, keepdim=True) + 1e-9)
        return Assignment(selected.any(0), selected.long().argmax(0), (metric * scale).amax(0))

    def _candidates(self, corners: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Return which cells may learn which target.  # (n, A)"""
        profile = self.config.profile
        if profile == "8.4":
            low, high = corners.chunk(2, 1)
            side = (high - low).clamp(min=self.strides[1])
            centre = (low + high) / 2
            corners = torch.cat((centre - side / 2, centre + side / 2), 1)
        places = points * strides  # in pixels
        low, high = corners[:, None].chunk(2, 2)  # (n, 1, 2)
        sides = torch.cat((places - low, high - places), 2)  # (n, A, 4)
        if profile == "yolov9":
            sides = sides / strides
            within = sides.amax(2) <= self.config.reg_max - 1.01
            return (sides.amin(2) >= 0) & within
        return sides.amin(2) > 1e-9


def _corners(targets: Tensor, size: Tensor) -> Tensor:
    """Return corners x1, y1, x2, y2 in pixels.  # (n, 4)"""
    centre, side = targets[:, 2:4] * size, targets[:, 4:6] * size
    return torch.cat((centre - side / 2, centre + side / 2), 1)


def _best(values: Tensor, count: int) -> Tensor:
    """Return which values of each row are among its largest; of equals the first."""
    order = values.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, order, True)


def _first_largest(values: Tensor) -> Tensor:
    return values.argsort(dim=1, descending=True, stable=True)[:, 0]


def _ciou(box1: Tensor, box2: Tensor) -> Tensor:
    """Compute the complete IoU of pairs of corners, arXiv 1911.08287.  # (n,)"""
    eps = 1e-7
    (x1, y1, x2, y2), (x3, y3, x4, y4) = box1.unbind(-1), box2.unbind(-1)
    w1, h1, w2, h2 = x2 - x1, y2 - y1 + eps, x4 - x3, y4 - y3 + eps
    across = (torch.minimum(x2, x4) - torch.maximum(x1, x3)).clamp(min=0)
    down = (torch.minimum(y2, y4) - torch.maximum(y1, y3)).clamp(min=0)
    union = w1 * h1 + w2 * h2 - across * down + eps
    iou = across * down / union
    wide = torch.maximum(x2, x4) - torch.minimum(x1, x3)
    high = torch.maximum(y2, y4) - torch.minimum(y1, y3)
    distance = ((x3 + x4 - x1 - x2) ** 2 + (y3 + y4 - y1 - y2) ** 2) / 4
    v = (4 / math.pi**2) * (torch.atan(w2 / h2) - torch.atan(w1 / h1)) ** 2
    alpha = (v / (v - iou + (1 + eps))).detach()
    return iou - (distance / (wide**2 + high**2 + eps) + v * alpha)

"""A small detector without anchors, with the methods that exports and commands use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exportloss import TaskAlignedConfig, TaskAlignedLoss
from tests.support.tiny_detector import block

CLASSES, IMAGE, REG_MAX, STRIDES = 3, 64, 8, (8, 16)


class AnchorFree(nn.Module):
    """Two levels; a head of box distances and one of classes per level.

    Args:
        num_classes: Number of classes.
        reg_max: Bins per distance.
        width: Channels of the finest level.
    """

    strides = STRIDES

    def __init__(
        self, num_classes: int = CLASSES, *, reg_max: int = REG_MAX, width: int = 16
    ) -> None:
        super().__init__()
        self.num_classes, self.reg_max = num_classes, reg_max
        self.stem = nn.Sequential(block(3, width, 3, 2), block(width, width, 3, 2))
        self.fine = nn.Sequential(block(width, width, 3, 2), block(width, width, 3))
        self.coarse = nn.Sequential(block(width, 2 * width, 3, 2), block(2 * width, width, 3))
        self.up = nn.Upsample(scale_factor=2)
        channels = (2 * width, width)
        self.boxes = nn.ModuleList(self._head(c, 4 * reg_max) for c in channels)
        self.classes = nn.ModuleList(self._head(c, num_classes) for c in channels)
        for head in self.classes:
            nn.init.constant_(head[-1].bias, -4.0)  # few cells hold an object

    @staticmethod
    def _head(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(block(inputs, 32, 3), nn.Conv2d(32, outputs, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.fine(self.stem(images))
        coarse = self.coarse(fine)
        features = (torch.cat((fine, self.up(coarse)), dim=1), coarse)
        return [
            torch.cat((boxes(x), classes(x)), dim=1)
            for boxes, classes, x in zip(self.boxes, self.classes, features, strict=True)
        ]

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """(B, N, 5 + nc) boxes in pixels, with an objectness of 1."""
        return decode_boxes(levels, self.strides, self.reg_max)

    def layers(self) -> list[nn.Module]:
        """The parts that `freeze` counts."""
        heads = [module for pair in zip(self.boxes, self.classes, strict=True) for module in pair]
        return [self.stem, self.fine, self.coarse, *heads]


def decode_boxes(levels: Sequence[Tensor], strides: Sequence[int], reg_max: int) -> Tensor:
    """(B, N, 5 + nc) boxes in pixels, with an objectness of 1."""
    rows = []
    bins = torch.arange(reg_max, dtype=levels[0].dtype)
    for level, stride in zip(levels, strides, strict=True):
        batch, channels, height, width = level.shape
        flat = level.reshape(batch, channels, height * width).transpose(1, 2)
        logits = flat[..., : 4 * reg_max].unflatten(2, (4, reg_max))
        distances = (logits.softmax(3) * bins).sum(3) * stride  # (B, H * W, 4)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points = (torch.stack((x, y), dim=2).reshape(-1, 2) + 0.5) * stride
        low, high = points - distances[..., :2], points + distances[..., 2:]
        scores = flat[..., 4 * reg_max :].sigmoid()
        ones = torch.ones_like(scores[..., :1])
        rows.append(torch.cat(((low + high) / 2, high - low, ones, scores), dim=2))
    return torch.cat(rows, dim=1)


def make_model(seed: int = 0) -> AnchorFree:
    torch.manual_seed(seed)
    return AnchorFree()


def make_loss(**options: object) -> TaskAlignedLoss:
    config = TaskAlignedConfig(reg_max=REG_MAX, **options)  # type: ignore[arg-type]
    return TaskAlignedLoss(STRIDES, CLASSES, config)


def build() -> AnchorFree:
    """As a user's own function for `exportloss export --model`."""
    return make_model()

"""A detector of a few thousand parameters that has every kind of layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exportloss import LossConfig, YoloLoss

ANCHORS = [[[10, 13], [16, 30]], [[30, 61], [62, 45]]]
STRIDES = [8, 16]
CLASSES = 3
IMAGE = 64


def block(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03),
        nn.SiLU(inplace=True),
    )


class TinyDetector(nn.Module):
    """Depthwise convolutions as in MobileNet, pooling, a way down and two levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 8, 6, 2), nn.MaxPool2d(2))
        self.fine = nn.Sequential(block(8, 8, 3, 2, groups=8), block(8, 12, 1), block(12, 12, 3))
        self.coarse = nn.Sequential(block(12, 16, 3, 2), nn.MaxPool2d(5, 1, 2), block(16, 12, 1))
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.ModuleList(nn.Conv2d(c, 2 * (5 + CLASSES), 1) for c in (24, 12))

    def forward(self, images: Tensor) -> list[Tensor]:
        fine = self.fine(self.stem(nn.functional.pad(images, (0, 1, 0, 1))))
        coarse = self.coarse(fine)
        maps = (torch.cat((fine, self.up(coarse)), dim=1), coarse)
        return [
            head(x).unflatten(1, (2, 5 + CLASSES)).permute(0, 1, 3, 4, 2)
            for head, x in zip(self.head, maps, strict=True)
        ]


class DecodingDetector(TinyDetector):
    """One that makes boxes of its maps, so that a run can export what it trained."""

    def decode(self, levels: list[Tensor]) -> Tensor:
        rows = []
        for level, anchors, stride in zip(levels, ANCHORS, STRIDES, strict=True):
            batch, _, height, width, columns = level.shape
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            shares = level.sigmoid()
            xy = (shares[..., :2] * 2 - 0.5 + torch.stack((x, y), dim=-1)) * stride
            wh = (shares[..., 2:4] * 2) ** 2 * torch.tensor(anchors).view(1, 2, 1, 1, 2)
            boxes = torch.cat((xy, wh, shares[..., 4:]), dim=-1)
            rows.append(boxes.reshape(batch, 2 * height * width, columns))
        return torch.cat(rows, dim=1)


def make_detector(seed: int = 0) -> TinyDetector:
    torch.manual_seed(seed)
    return TinyDetector()


def make_loss(**options: object) -> YoloLoss:
    return YoloLoss(ANCHORS, STRIDES, CLASSES, LossConfig(**options))  # type: ignore[arg-type]


def make_batch(seed: int, batch_size: int = 2) -> tuple[Tensor, Tensor]:
    """(B, 3, IMAGE, IMAGE) uint8 and 5 target rows of 8."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch_size, 3, IMAGE, IMAGE), generator=generator)
    targets = torch.zeros(8, 6)
    targets[:5, 0] = torch.arange(5) % batch_size
    targets[:5, 1] = torch.arange(5) % CLASSES
    targets[:5, 2:] = 0.2 + 0.5 * torch.rand(5, 4, generator=generator)
    return images.to(torch.uint8), targets

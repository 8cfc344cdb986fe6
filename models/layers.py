"""The building blocks of YOLOv5 v5.0 to v7.0, under its names.

The attribute names occur in YOLOv5's state dicts (`m.0.cv2.conv.weight`), so they are part of the
interface.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["C3", "SPP", "SPPF", "Bottleneck", "Concat", "Conv", "Detect", "Focus"]


class Conv(nn.Module):
    """Convolution without bias, BatchNorm, SiLU: (B, c1, H, W) -> (B, c2, H / stride, W / stride).

    `padding` defaults to half the kernel, which preserves the size at stride 1.
    """

    def __init__(
        self, c1: int, c2: int, kernel: int = 1, stride: int = 1, *, padding: int | None = None
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(c1, c2, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (B, c1, H, W)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class Focus(nn.Module):
    """Squares of 2 x 2 pixels stacked into 4 times the channels, then a 3x3 convolution."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W), H and W even -> (B, c2, H / 2, W / 2)."""
        batch, channels, height, width = x.shape
        squares = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
        # The weights expect the pixels of a square column by column, each with all its channels.
        stacked = squares.permute(0, 5, 3, 1, 2, 4)  # (B, column, row, c1, H / 2, W / 2)
        out: Tensor = self.conv(stacked.reshape(batch, 4 * channels, height // 2, width // 2))
        return out


class Bottleneck(nn.Module):
    """A 1x1 and a 3x3 convolution of the same width, with a residual path if `shortcut`."""

    def __init__(self, channels: int, *, shortcut: bool) -> None:
        super().__init__()
        self.cv1 = Conv(channels, channels)
        self.cv2 = Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x, (B, channels, H, W); the result has the same shape."""
        out: Tensor = self.cv2(self.cv1(x))
        return x + out if self.shortcut else out


class C3(nn.Module):
    """Cross-stage partial block (arXiv 1911.11929): a stack of bottlenecks beside a 1x1 path."""

    def __init__(self, c1: int, c2: int, *, repeats: int, shortcut: bool) -> None:
        super().__init__()
        hidden = c2 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.shortcut = shortcut
        self.m = nn.Sequential(*(Bottleneck(hidden, shortcut=shortcut) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        out: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))
        return out


class SPP(nn.Module):
    """Spatial pyramid pooling (arXiv 1406.4729) by parallel max-pools; `kernels` are odd."""

    def __init__(self, c1: int, c2: int, kernels: Sequence[int]) -> None:
        super().__init__()
        hidden = c1 // 2
        self.kernels = tuple(kernels)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv((1 + len(kernels)) * hidden, c2)
        self.m = nn.ModuleList(nn.MaxPool2d(k, stride=1, padding=k // 2) for k in kernels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        x = self.cv1(x)
        out: Tensor = self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))
        return out


class SPPF(nn.Module):
    """Spatial pyramid pooling by three 5x5 max-pools in sequence.

    Two and three of them in sequence cover windows of 9x9 and 13x13.
    """

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(4 * hidden, c2)
        self.kernel = 5
        self.m = nn.MaxPool2d(self.kernel, stride=1, padding=self.kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c1, H, W) -> (B, c2, H, W)."""
        scales = [self.cv1(x)]
        for _ in range(3):
            scales.append(self.m(scales[-1]))
        out: Tensor = self.cv2(torch.cat(scales, dim=1))
        return out


class Concat(nn.Module):
    """Concatenation of feature maps of the same size along their channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        """(B, c1, H, W), (B, c2, H, W), ... -> (B, c1 + c2 + ..., H, W)."""
        return torch.cat(maps, dim=1)


class Detect(nn.Module):
    """The head: a 1x1 convolution per level, to `na` boxes per cell.

    Args:
        num_classes: Number of classes, nc >= 1.
        anchors: Anchors as w, h, w, h, ... in pixels, per level; equally many per level.
        channels: Number of channels of the feature map, per level.
        strides: Pixels per cell, per level.

    Attributes:
        nl, na, nc, no: Numbers of levels, anchors per level, classes, outputs per box (5 + nc).
        anchors: Buffer (nl, na, 2), width and height in cells of the level; in the state dict.
        stride: Buffer (nl,), strides as floats; as in YOLOv5, not in the state dict.
        strides: Strides as Python integers, which an export needs.
        m: Convolutions, one per level.
    """

    anchors: Tensor
    stride: Tensor

    def __init__(
        self,
        num_classes: int,
        anchors: Sequence[Sequence[float]],
        channels: Sequence[int],
        strides: Sequence[int],
    ) -> None:
        super().__init__()
        self.nl, self.na = len(anchors), len(anchors[0]) // 2
        self.nc, self.no = num_classes, 5 + num_classes
        self.strides = tuple(strides)
        stride = torch.tensor(strides, dtype=torch.float32)
        pixels = torch.tensor(anchors, dtype=torch.float32).view(self.nl, self.na, 2)
        self.register_buffer("anchors", pixels / stride.view(-1, 1, 1))
        self.register_buffer("stride", stride, persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.na * self.no, 1) for c in channels)
        self._initialise_biases()

    @torch.no_grad()
    def _initialise_biases(self) -> None:
        # Priors, so that the first steps need not learn that most cells are empty (Lin et al.,
        # arXiv 1708.02002, section 3.3): about 8 objects per image of 640 pixels, and classes of
        # about equal probability.
        for conv, stride in zip(self.m, self.strides, strict=True):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            bias = conv.bias.view(self.na, self.no)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.nc - 0.99999))

    def forward(self, *features: Tensor) -> tuple[Tensor, ...]:
        """Feature maps (B, c, H, W), one per level -> raw maps (B, na, H, W, 5 + nc)."""
        return tuple(self._level(conv(x)) for conv, x in zip(self.m, features, strict=True))

    def _level(self, x: Tensor) -> Tensor:  # (B, na * no, H, W)
        batch, _, height, width = x.shape
        x = x.view(batch, self.na, self.no, height, width)
        return x.permute(0, 1, 3, 4, 2).contiguous()  # (B, na, H, W, no)

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Raw maps (B, na, H, W, 5 + nc), one per level -> boxes (B, N, 5 + nc); see `YoloV5`."""
        return torch.cat(
            [
                _decode_level(raw, anchors * stride, stride)
                for raw, anchors, stride in zip(levels, self.anchors, self.strides, strict=True)
            ],
            dim=1,
        )


def _decode_level(raw: Tensor, anchors: Tensor, stride: int) -> Tensor:
    """Decode one level, raw (B, na, H, W, no) and anchors (na, 2) in pixels -> (B, na*H*W, no)."""
    batch, na, height, width, outputs = raw.shape
    y = torch.arange(height, dtype=raw.dtype, device=raw.device).view(height, 1)
    x = torch.arange(width, dtype=raw.dtype, device=raw.device).view(1, width)
    cell = torch.stack((x.expand(height, width), y.expand(height, width)), dim=-1)  # (H, W, 2)

    scores = raw.sigmoid()
    xy = (2 * scores[..., 0:2] - 0.5 + cell) * stride
    wh = (2 * scores[..., 2:4]) ** 2 * anchors.view(na, 1, 1, 2)
    boxes = torch.cat((xy, wh, scores[..., 4:]), dim=-1)  # (B, na, H, W, no)
    return boxes.reshape(batch, na * height * width, outputs)

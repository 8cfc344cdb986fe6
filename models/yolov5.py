"""The detectors of YOLOv5, layer by layer under YOLOv5's indices.

All have the same structure: a backbone that halves the resolution at every stage, a path from the
coarsest stage to stride 8 (FPN, arXiv 1612.03144) and a path back (PAN, arXiv 1803.01534). P5 and
P6 differ in the number of stages, the sizes in width and depth. There are ten detectors of v6.0 to
v7.0, and eight of v5.0, which begin and end the backbone differently.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from torch import Tensor, nn

from exportloss.errors import ConfigError
from exportloss.models.layers import C3, SPP, SPPF, Concat, Conv, Detect, Focus

__all__ = ["YoloV5", "name_by_shape", "yolov5"]

Anchors = Sequence[Sequence[float]]


@dataclasses.dataclass(frozen=True)
class _Family:
    """Parameters in which P5, P6 and the versions differ; widths and repeats are for size l."""

    widths: tuple[int, ...]  # channels of the stages, at strides 2, 4, 8, ...
    repeats: tuple[int, ...]  # bottlenecks of the stages from stride 4 on
    anchors: tuple[tuple[float, ...], ...]  # w, h, w, h, ... in pixels, from stride 8 on
    spp_kernels: tuple[int, ...] = ()  # of v5.0's SPP; empty for v6.0 and later

    @property
    def focus(self) -> bool:
        """Whether the stem is v5.0's Focus."""
        return bool(self.spp_kernels)

    @property
    def num_layers(self) -> int:
        """Number of layers: stem, stages, pooling, 4 per step up, 3 per step down, and the head."""
        return 1 + 2 * len(self.repeats) + 1 + (4 + 3) * (len(self.anchors) - 1) + 1


_P5 = _Family(
    widths=(64, 128, 256, 512, 1024),
    repeats=(3, 6, 9, 3),
    anchors=(
        (10, 13, 16, 30, 33, 23),
        (30, 61, 62, 45, 59, 119),
        (116, 90, 156, 198, 373, 326),
    ),
)
_P6 = _Family(
    widths=(64, 128, 256, 512, 768, 1024),
    repeats=(3, 6, 9, 3, 3),
    anchors=(
        (19, 27, 44, 40, 38, 94),
        (96, 68, 86, 152, 180, 137),
        (140, 301, 303, 264, 238, 542),
        (436, 615, 739, 380, 925, 792),
    ),
)
_P5_V5 = dataclasses.replace(_P5, repeats=(3, 9, 9, 3), spp_kernels=(5, 9, 13))
_P6_V5 = dataclasses.replace(_P6, repeats=(3, 9, 9, 3, 3), spp_kernels=(3, 5, 7))
_HEAD_REPEATS = 3
_SIZES = {  # (width, depth), as factors on the family's numbers
    "n": (0.25, 0.33),
    "s": (0.50, 0.33),
    "m": (0.75, 0.67),
    "l": (1.00, 1.00),
    "x": (1.25, 1.33),
}
_MODELS = {
    f"yolov5{size}{suffix}": (family, *_SIZES[size])
    for suffix, family, sizes in (
        ("", _P5, "nsmlx"),
        ("6", _P6, "nsmlx"),
        ("-v5.0", _P5_V5, "smlx"),
        ("6-v5.0", _P6_V5, "smlx"),
    )
    for size in sizes
}


class YoloV5(nn.Module):
    """A YOLOv5 detector; build one with `yolov5`.

    Attributes:
        model: Layers, under YOLOv5's indices; the last one is `Detect`.
        sources: Indices of the layers from which each layer takes its inputs; () means the
            previous layer.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[nn.Module],
        sources: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self._name = name
        self.sources = tuple(sources)
        self._saved = frozenset(index for taken in sources for index in taken)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Run the network; the result has the same form in training and evaluation mode.

        Args:
            images: (B, 3, H, W), floating point in [0, 1]; H and W are multiples of the largest
                stride (32, or 64 for P6).

        Returns:
            One raw map per level, finest first: (B, na, H / stride, W / stride, 5 + nc), before
            the sigmoid, for the loss and `decode`.

        Raises:
            ConfigError: the images have a wrong type or shape.
        """
        maps: tuple[Tensor, ...] = self.detect(*self.features(images))
        return maps

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the head's inputs, one (B, C, H / stride, W / stride) map per level.

        Arguments and errors as for `forward`.
        """
        self._check(images)
        x = images
        saved: dict[int, Tensor] = {}
        *before, _ = zip(self.model, self.sources, strict=True)
        for index, (layer, taken) in enumerate(before):
            x = layer(*(saved[source] for source in taken)) if taken else layer(x)
            if index in self._saved:
                saved[index] = x
        return tuple(saved[source] for source in self.sources[-1])

    def layers(self) -> tuple[nn.Module, ...]:
        """Return the layers under YOLOv5's indices, as `freeze` counts them."""
        return tuple(self.model)

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ConfigError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; expected floats in "
                "[0, 1] of shape (B, 3, H, W)"
            )
        height, width = images.shape[2:]
        multiple = max(self.strides)
        if height % multiple or width % multiple:
            raise ConfigError(
                f"images are {height} x {width} pixels (height x width); {self.name} needs both "
                f"to be multiples of {multiple}: pad or resize them"
            )

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Turn raw maps into boxes, as YOLOv5 does for inference (before non-maximum suppression).

        Args:
            levels: Maps that `forward` returns, each (B, na, H, W, 5 + nc).

        Returns:
            (B, N, 5 + nc): centre x, centre y, width, height in pixels of the input, objectness
            and class probabilities in [0, 1]. N is the sum of na * H * W over the levels, in the
            order level, anchor, row, column.

        Raises:
            ConfigError: the number of levels is wrong.
        """
        if len(levels) != self.detect.nl:
            raise ConfigError(
                f"decode got {len(levels)} levels, expected the {self.detect.nl} of {self.name}; "
                "pass all maps that the model returns"
            )
        return self.detect.decode(levels)

    @property
    def name(self) -> str:
        """Full name, such as `yolov5n6`."""
        return self._name

    @property
    def detect(self) -> Detect:
        """Head, the last layer."""
        head = self.model[-1]
        assert isinstance(head, Detect)
        return head

    @property
    def num_classes(self) -> int:
        """Number of classes, nc."""
        return self.detect.nc

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell, per level: (8, 16, 32), for P6 (8, 16, 32, 64)."""
        return self.detect.strides

    @property
    def anchors_px(self) -> Tensor:
        """Widths and heights of the anchors in pixels, (nl, na, 2), from the `anchors` buffer."""
        return self.detect.anchors * self.detect.stride.view(-1, 1, 1)

    def set_anchors(self, anchors: Sequence[Sequence[Sequence[float]]]) -> None:
        """Replace the anchors; a trained model's boxes are then wrong until it is trained again.

        Args:
            anchors: (nl, na, 2) widths and heights in pixels, finest level first, of the same shape
                as the present ones.

        Raises:
            ConfigError: the shape is wrong, or anchors shrink from the first level to the last.
        """
        pixels = self.detect.anchors.new_tensor(anchors)
        shape, expected = tuple(pixels.shape), tuple(self.detect.anchors.shape)
        if shape != expected:
            raise ConfigError(f"anchors have shape {shape}; {self.name} expects {expected}")
        flat = [[side for anchor in level for side in anchor] for level in anchors]
        _check_anchors(flat, num_levels=self.detect.nl, model=self.name)
        self.detect.anchors.copy_(pixels / self.detect.stride.view(-1, 1, 1))


def yolov5(name: str, num_classes: int = 80, *, anchors: Anchors | None = None) -> YoloV5:
    """Build a YOLOv5 detector with YOLOv5's parameter names and initialisation.

    The weights are random, from torch's default generator; a YOLOv5 state dict of the same size
    and number of classes loads with `strict=True`.

    Args:
        name: Name of the model: `yolov5` with the size `n`, `s`, `m`, `l` or `x`; with a 6 for the
            P6 form (`yolov5n6`); with `-v5.0` for that version's architecture, which has no size n
            (`yolov5s-v5.0`, `yolov5s6-v5.0`). The prefix `yolov5` may be omitted.
        num_classes: Number of classes, >= 1.
        anchors: Anchors per level, finest first, as flat `w, h, w, h, ...` in pixels; equally many
            per level. Default: YOLOv5's for COCO.

    Raises:
        ConfigError: the name is unknown, `num_classes` is below 1, or the anchors do not fit.
    """
    full_name = name if str(name).startswith("yolov5") else f"yolov5{name}"
    if full_name not in _MODELS:
        raise ConfigError(f"no model {name!r}; choose one of {', '.join(_MODELS)}")
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes!r}; expected a whole number >= 1")
    family, width, depth = _MODELS[full_name]
    if anchors is None:
        anchors = family.anchors
    _check_anchors(anchors, num_levels=len(family.anchors), model=full_name)
    layers, sources = _build(family, width, depth, num_classes, anchors)
    return YoloV5(full_name, layers, sources)


def name_by_shape(*, num_layers: int, stem: int, focus: bool) -> str | None:
    """Return the name of the model of this shape, or None if there is no such model.

    Args:
        num_layers: Number of layers.
        stem: Number of output channels of the first layer.
        focus: Whether the first layer is a Focus, as in v5.0.
    """
    for name, (family, width, _) in _MODELS.items():
        shape = family.num_layers, _scaled(family.widths[0], width), family.focus
        if shape == (num_layers, stem, focus):
            return name
    return None


def _scaled(channels: int, width: float) -> int:
    return math.ceil(channels * width / 8) * 8


def _check_anchors(anchors: Anchors, *, num_levels: int, model: str) -> None:
    lengths = [len(level) for level in anchors]
    if len(anchors) != num_levels or len(set(lengths)) != 1 or not lengths[0] or lengths[0] % 2:
        raise ConfigError(
            f"anchors have {len(anchors)} levels of {lengths} numbers; {model} needs "
            f"{num_levels} levels of equally many `w, h` pairs"
        )
    if bad := [v for level in anchors for v in level if not (v > 0 and math.isfinite(v))]:
        raise ConfigError(f"anchors hold {bad[0]!r}; expected widths and heights > 0 in pixels")
    first, last = (sum(w * h for w, h in _pairs(anchors[level])) for level in (0, -1))
    if first > last:
        raise ConfigError(
            "anchors shrink from the first level to the last; expected small to large, as the "
            "strides are: reverse the levels"
        )


def _pairs(level: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(level[::2], level[1::2], strict=True))


def _build(
    family: _Family, width: float, depth: float, num_classes: int, anchors: Anchors
) -> tuple[list[nn.Module], list[tuple[int, ...]]]:
    """Build the layers, with the indices of each layer's inputs (() means the previous layer)."""
    layers: list[nn.Module] = []
    sources: list[tuple[int, ...]] = []
    channels: list[int] = []  # of the output of each layer

    def add(layer: nn.Module, out: int, taken: tuple[int, ...] = ()) -> int:
        layers.append(layer)
        sources.append(taken)
        channels.append(out)
        return len(layers) - 1

    def conv(out: int, kernel: int, stride: int) -> int:
        return add(Conv(channels[-1], out, kernel, stride), out)

    def c3(out: int, repeats: int, *, shortcut: bool) -> int:
        repeats = max(round(repeats * depth), 1)
        return add(C3(channels[-1], out, repeats=repeats, shortcut=shortcut), out)

    def concat(other: int) -> int:
        last = len(layers) - 1
        return add(Concat(), channels[last] + channels[other], (last, other))

    widths = [_scaled(channels, width) for channels in family.widths]
    stem = Focus(3, widths[0]) if family.focus else Conv(3, widths[0], 6, 2, padding=2)
    add(stem, widths[0])
    stages = []
    for out, repeats in zip(widths[1:-1], family.repeats[:-1], strict=True):
        conv(out, 3, 2)
        stages.append(c3(out, repeats, shortcut=True))
    coarsest = widths[-1]
    conv(coarsest, 3, 2)
    if family.spp_kernels:
        add(SPP(coarsest, coarsest, family.spp_kernels), coarsest)
        c3(coarsest, family.repeats[-1], shortcut=False)
    else:
        c3(coarsest, family.repeats[-1], shortcut=True)
        add(SPPF(coarsest, coarsest), coarsest)

    laterals = []  # coarse to fine, for the concatenations of the second path
    for out, stage in zip(widths[-2:1:-1], stages[:0:-1], strict=True):
        laterals.append(conv(out, 1, 1))
        add(nn.Upsample(scale_factor=2, mode="nearest"), out)
        concat(stage)
        c3(out, _HEAD_REPEATS, shortcut=False)

    levels = [len(layers) - 1]
    for out, lateral in zip(widths[3:], reversed(laterals), strict=True):
        conv(channels[lateral], 3, 2)
        concat(lateral)
        levels.append(c3(out, _HEAD_REPEATS, shortcut=False))

    strides = [8 << index for index in range(len(levels))]
    head = Detect(num_classes, anchors, [channels[index] for index in levels], strides)
    add(head, head.na * head.no, tuple(levels))
    return layers, sources

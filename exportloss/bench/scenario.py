"""Scenario of a benchmark: its sizes, and the same batch for everyone. Needs numpy only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.config import LossConfig
from exportloss.errors import ConfigError
from exportloss.random_batches import draw_images, draw_targets
from exportloss.runtime.artifact.manifest import Layout
from exportloss.runtime.sessions.devices import Device
from exportloss.targets import pad_targets

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "LEARNING_RATE",
    "MAX_NORM",
    "MOMENTUM",
    "WEIGHT_DECAY",
    "Arithmetic",
    "Scenario",
    "make_head",
    "make_images",
    "make_maps",
    "make_padded_targets",
    "make_targets",
]

# YOLOv5's settings of a step; the rate is that of a warm-up.
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, MAX_NORM = 1e-3, 0.937, 5e-4, 10.0

Array = npt.NDArray[np.float32]

# Precision of products. TF32 keeps 10 of float32's 23 bits, on CUDA.
Arithmetic = Literal["float32", "tf32", "float16", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenario:
    """The sizes of a benchmark.

    Attributes:
        model: Size of the detector, such as `yolov5n`; its weights are random.
        num_classes: Number of classes, >= 1.
        image_size: Height and width of the images, pixels.
        batch_size: Images per batch, >= 1.
        max_targets: Capacity of a batch in target rows, >= 1.
        targets: Boxes in the batch, 0 to `max_targets`.
        threads: Threads of each implementation within an operator, >= 1.
        freeze: Number of layers, or several layer indices, as YOLOv5's `--freeze`.
        device: The runtime's name of the device: `cpu`, `cuda`, `tensorrt`, `cuda:1`; torch uses
            the same GPU.
        layout: Input of the loss: `permuted` maps (B, na, H, W, 5 + nc), the
            `head-output`, the last convolution's (B, na * (5 + nc), H, W), or the `head-input`,
            which that convolution takes, (B, C, H, W): then the head is measured with the loss.
        precision: Precision of the network in training, in every implementation; the loss is
            float32. On the CPU float32 alone.
        loss: Kind of the loss.
        seed: Seed of weights, images, boxes and maps.

    Raises:
        ConfigError: A number is out of range.
    """

    model: str = "yolov5n"
    num_classes: int = 80
    image_size: tuple[int, int] = (320, 320)
    batch_size: int = 4
    max_targets: int = 64
    targets: int = 30
    threads: int = 2
    freeze: tuple[int, ...] = (0,)
    device: str = "cpu"
    layout: Layout = "permuted"
    precision: Arithmetic = "float32"
    loss: str = LossConfig.kind
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {
            "number of classes": self.num_classes,
            "image size": min(self.image_size),
            "batch size": self.batch_size,
            "max targets": self.max_targets,
            "threads": self.threads,
        }
        at_least(1, **counts)
        if not 0 <= self.targets <= self.max_targets:
            raise ConfigError(
                f"targets is {self.targets}; expected 0 to max targets, {self.max_targets}"
            )
        # Stride of the coarsest level: P6 models such as yolov5n6 have one level more.
        stride = 64 if self.model.removesuffix("-v5.0").endswith("6") else 32
        if any(side % stride for side in self.image_size):
            raise ConfigError(
                f"image size is {self.image_size}; expected multiples of {stride} for {self.model}"
            )
        Device.parse(self.device)
        if self.layout not in get_args(Layout):
            raise ConfigError(f"layout is {self.layout!r}; expected one of {get_args(Layout)}")
        if self.precision not in get_args(Arithmetic):
            raise ConfigError(
                f"precision is {self.precision!r}; expected one of {get_args(Arithmetic)}"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a scenario from the JSON of its `dataclasses.asdict`."""
        lists = {name: tuple(values[name]) for name in ("image_size", "freeze")}
        return cls(**{**values, **lists})

    @property
    def torch_device(self) -> str:
        """Torch's name of the device."""
        device = Device.parse(self.device)
        return "cpu" if device.kind == "cpu" else f"cuda:{device.index}"

    def loss_config(self, levels: int) -> LossConfig:
        """Return YOLOv5's gains, scaled to the model's levels, classes and image size."""
        return LossConfig().scaled(
            levels=levels, num_classes=self.num_classes, image_size=self.image_size
        )


def make_images(scenario: Scenario) -> npt.NDArray[np.uint8]:
    """Draw noise: (B, 3, H, W), 0 to 255."""
    return draw_images(_generator(scenario, 0), scenario.batch_size, scenario.image_size)


def make_targets(scenario: Scenario) -> Array:
    """Draw boxes of every size, some across the border: (targets, 6), as for `pad_targets`."""
    return draw_targets(
        _generator(scenario, 1),
        scenario.targets,
        batch_size=scenario.batch_size,
        num_classes=scenario.num_classes,
    )


def make_padded_targets(scenario: Scenario) -> Array:
    """Return the same boxes, padded to (max_targets, 6)."""
    return pad_targets(
        make_targets(scenario),
        scenario.max_targets,
        batch_size=scenario.batch_size,
        num_classes=scenario.num_classes,
    )


def make_maps(
    scenario: Scenario, strides: Sequence[float], anchors: int, channels: Sequence[int]
) -> list[Array]:
    """Draw the inputs of the loss in the scenario's layout, one map per level.

    Args:
        scenario: Sizes and layout.
        strides: (nl,) pixels per cell.
        anchors: Number of anchors per level, na.
        channels: (nl,) channels of the head's input.
    """
    rng, outputs = _generator(scenario, 2), 5 + scenario.num_classes
    maps = []
    for stride, width_of_input in zip(map(int, strides), channels, strict=True):
        height, width = (side // stride for side in scenario.image_size)
        shapes: dict[Layout, tuple[int, ...]] = {
            "permuted": (anchors, height, width, outputs),
            "head-output": (anchors * outputs, height, width),
            "head-input": (width_of_input, height, width),
        }
        shape = (scenario.batch_size, *shapes[scenario.layout])
        maps.append(rng.standard_normal(shape, dtype=np.float32))
    return maps


def make_head(
    scenario: Scenario, anchors: int, channels: Sequence[int]
) -> list[tuple[Array, Array]]:
    """Draw the head's weights (na * (5 + nc), C, 1, 1) and biases per level."""
    rng, outputs = _generator(scenario, 3), anchors * (5 + scenario.num_classes)
    return [
        (
            0.1 * rng.standard_normal((outputs, width, 1, 1), dtype=np.float32),
            0.1 * rng.standard_normal(outputs, dtype=np.float32),
        )
        for width in channels
    ]


def _generator(scenario: Scenario, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence((scenario.seed, stream)))

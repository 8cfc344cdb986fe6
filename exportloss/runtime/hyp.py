"""The training keys of YOLOv5's hyperparameter files; the loss keys are `LossConfig`'s."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from exportloss.config import LossConfig
from exportloss.errors import ConfigError

__all__ = ["TrainingConfig", "read_hyp", "unused_keys"]

# Augmentations that this version does not do, and keys that concern YOLOv5's own tools.
_UNUSED = frozenset(
    """iou_t anchors hsv_h hsv_s hsv_v degrees translate scale shear perspective mosaic mixup
    copy_paste""".split()
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train; the defaults are those of YOLOv5's `hyp.scratch-low.yaml`.

    Attributes:
        lr0: learning rate at the start, >= 0.
        lrf: learning rate at the end as a share of `lr0`, >= 0.
        momentum: of SGD, first beta of AdamW, in [0, 1).
        weight_decay: of the weights, at the nominal batch, >= 0.
        warmup_epochs: epochs of warm-up, >= 0; it lasts 100 batches at least.
        warmup_momentum: momentum at the start of warm-up, in [0, 1).
        warmup_bias_lr: learning rate of the biases at the start of warm-up, >= 0.
        fliplr: probability of a mirrored picture, in [0, 1].
        flipud: probability of an upside-down picture, in [0, 1].

    Raises:
        ConfigError: a value is no number or out of range.
    """

    lr0: float = 0.01
    lrf: float = 0.01
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warmup_epochs: float = 3.0
    warmup_momentum: float = 0.8
    warmup_bias_lr: float = 0.1
    fliplr: float = 0.5
    flipud: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"{name} is {value!r}; expected a number")
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}; expected a finite number >= 0")
            if name in ("momentum", "warmup_momentum") and value >= 1:
                raise ConfigError(f"{name} is {value}; expected a number below 1")
            if name in ("fliplr", "flipud") and value > 1:
                raise ConfigError(f"{name} is {value}; expected a probability in [0, 1]")

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], *, source: str = "the mapping"
    ) -> TrainingConfig:
        """Take the training keys out of a YOLOv5 `hyp` mapping; its loss keys are passed over.

        Raises:
            ConfigError: a key is unknown to YOLOv5, or a value is out of range.
        """
        LossConfig.from_mapping(values, source=source)  # refuses unknown keys
        own = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in own})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error


def read_hyp(path: str | Path | None) -> dict[str, Any]:
    """Read a YOLOv5 hyperparameter file; None is an empty one.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or holds an unknown key.
    """
    if path is None:
        return {}
    LossConfig.from_yaml(path)  # reads and checks
    values: dict[str, Any] = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    TrainingConfig.from_mapping(values, source=str(path))
    return values


def unused_keys(values: Mapping[str, Any]) -> list[str]:
    """Name the settings of a hyperparameter file that are in use there but not here."""
    return [key for key, value in values.items() if key in _UNUSED - {"iou_t"} and value]

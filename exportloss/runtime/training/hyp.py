"""The training keys of YOLOv5's hyperparameter files; the loss keys belong to `LossConfig`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.config import LossConfig
from exportloss.errors import ConfigError, excerpt
from exportloss.loss_kinds import LOSS_KINDS, LossSettings
from exportloss.reading import read_yaml_mapping
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.optimizers.table import MAX_RATE

__all__ = ["TrainingConfig", "every_key", "read_hyp", "shipped_hyp", "unused_keys"]

_RATES = frozenset({"lr0", "lrf", "weight_decay", "warmup_bias_lr"})
_IN_USE_THERE = frozenset({"anchors", "copy_paste"})

# Keys that are unused here but required by YOLOv5, with the values of its `hyp.scratch-low.yaml`.
_UNUSED_DEFAULTS = {"iou_t": 0.2, "copy_paste": 0.0}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of training; the defaults are those of YOLOv5's `hyp.scratch-low.yaml`.

    Attributes:
        lr0: Learning rate at the start, in [0, 1000].
        lrf: Learning rate at the end as a fraction of `lr0`, in [0, 1000].
        momentum: Momentum, or first beta of Adam and AdamW, in [0, 1).
        weight_decay: Decay of the weights at the nominal batch, in [0, 1000].
        warmup_epochs: Epochs of warm-up, >= 0; it lasts at least 100 batches.
        warmup_momentum: Momentum at the start of warm-up, in [0, 1).
        warmup_bias_lr: Learning rate of the biases at the start of warm-up, in [0, 1000].
        hsv_h, hsv_s, hsv_v, degrees, translate, scale, shear, perspective, flipud, fliplr,
            mosaic, mixup: as in `Augmentation`.

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
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"{name} is {excerpt(repr(value))}; expected a number")
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} is {value}; expected a finite number >= 0")
            if name in _RATES and value > MAX_RATE:
                raise ConfigError(f"{name} is {value}; expected at most {MAX_RATE:g}")
            if name in ("momentum", "warmup_momentum") and value >= 1:
                raise ConfigError(f"{name} is {value}; expected a number below 1")
        _ = self.augmentation  # which checks its own values

    @property
    def augmentation(self) -> Augmentation:
        """Augmentations of the training images."""
        names = (field.name for field in dataclasses.fields(Augmentation))
        return Augmentation(**{name: getattr(self, name) for name in names})

    @classmethod
    def from_mapping(
        cls,
        values: Mapping[str, Any],
        *,
        source: str = "the mapping",
        loss: type[LossSettings] = LossConfig,
    ) -> TrainingConfig:
        """Read the training keys of a `hyp` mapping; those of its loss are skipped.

        Args:
            values: Hyperparameters; missing keys keep their defaults.
            source: Name of the mapping, for messages.
            loss: Class of the settings of the loss.

        Raises:
            ConfigError: a key is unknown, or a value is out of range.
        """
        loss.from_mapping(values, source=source)  # refuses unknown keys
        own = {field.name for field in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in values.items() if key in own})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error


def every_key(
    config: TrainingConfig, loss: LossSettings, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a mapping with every key of the settings; for YOLOv5, one that YOLOv5 can use too.

    Args:
        config: Settings of training.
        loss: Settings of the loss, with the gains before scaling.
        given: Hyperparameters as read, for the keys that are unused here.
    """
    required = _UNUSED_DEFAULTS if isinstance(loss, LossConfig) else {}
    unused = {key: given.get(key, default) for key, default in required.items()}
    return {**dataclasses.asdict(config), **dataclasses.asdict(loss), **unused}


def read_hyp(path: str | Path | None, *, loss: type[LossSettings] = LossConfig) -> dict[str, Any]:
    """Read a hyperparameter file in YOLOv5's form; None reads as an empty one.

    Args:
        path: YAML file, or the name of a kind of loss, for the defaults that are shipped for it.
        loss: Class of the settings of the loss, whose keys the file may have.

    Raises:
        ConfigError: the file cannot be read, is no mapping, or holds an unknown key.
    """
    if path is None:
        return {}
    names = " or ".join(LOSS_KINDS)
    read = read_yaml_mapping(
        shipped_hyp(path) or Path(path),
        expected=f"`key: value` lines, or the defaults of {names}",
        error=ConfigError,
    )
    for key, value in read.values.items():
        if key not in ("criterion", "topk2"):  # valid only together with other keys
            TrainingConfig.from_mapping({key: value}, source=read.where(key), loss=loss)
    TrainingConfig.from_mapping(read.values, source=str(path), loss=loss)
    return dict(read.values)


def shipped_hyp(name: str | Path) -> Path | None:
    """Return the file of defaults that is shipped for a kind of loss.

    Args:
        name: Name of the kind. A file or folder of that name goes before.

    Returns:
        Path of the file; None if there is no such kind.
    """
    if str(name) not in LOSS_KINDS or Path(name).exists():
        return None
    return Path(__file__).with_name(f"hyp_{str(name).replace('-', '_')}.yaml")


def unused_keys(values: Mapping[str, Any]) -> list[str]:
    """Return the settings of a hyperparameter file that YOLOv5 uses and this package does not."""
    return [key for key, value in values.items() if key in _IN_USE_THERE and value]

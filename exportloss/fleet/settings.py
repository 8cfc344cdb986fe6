"""Settings of a federated run, which the server has and tells the devices in part."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from exportloss.errors import ConfigError, excerpt

__all__ = ["MAX_SETTING", "FleetSettings", "take_fields"]

MAX_SETTING = 1e6  # of every number that comes from elsewhere


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetSettings:
    """What a federated run does.

    Attributes:
        rounds: Number of rounds, >= 1.
        local_epochs: Epochs on each device per round, >= 1.
        lr: Learning rate in the first round, in [0, 1000].
        lrf: Learning rate in the last round, as a fraction of `lr`, in [0, 1]; between them it
            falls along a cosine.
        momentum: Momentum, in [0, 1).
        weight_decay: Decay of the weights, in [0, 1000].
        proximal: Weight of FedProx's proximal term, in [0, 1000]; 0 for FedAvg.
        share: Tensors that leave the devices, as for `TrainSession.weights`; `"without-norms"` is
            FedBN.
        pooled_variances: Whether the variance between the devices is part of averaged variances.
        half: Whether parameters are sent as float16 differences, both ways.
        calibrate: Whether devices measure their statistics anew at the end.
        quorum: Fewest results that make a round, >= 1.
        join_seconds: Most seconds to wait for `quorum` devices before a round, > 0.
        round_seconds: Most seconds to wait for results, > 0.
        seed: Seed of order and augmentation on the devices, >= 0.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    rounds: int = 10
    local_epochs: int = 1
    lr: float = 0.01
    lrf: float = 0.05
    momentum: float = 0.937
    weight_decay: float = 5e-4
    proximal: float = 0.0
    share: str = "all"
    pooled_variances: bool = True
    half: bool = False
    calibrate: bool = True
    quorum: int = 2
    join_seconds: float = 600.0
    round_seconds: float = 3600.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.default)
        for name, least, most in (
            *((name, 1, MAX_SETTING) for name in ("rounds", "local_epochs", "quorum")),
            *((name, 0, 1000) for name in ("lr", "weight_decay", "proximal")),
            ("lrf", 0, 1),
            ("momentum", 0, math.nextafter(1, 0)),
            *((name, 0.1, MAX_SETTING) for name in ("join_seconds", "round_seconds")),
            ("seed", 0, MAX_SETTING),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(
                    f"{name} is {value}; expected in [{least:g}, {most:g}]", argument=name
                )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> FleetSettings:
        """Take the settings from keys with `-` or `_`; other keys are ignored."""
        settings: FleetSettings = take_fields(cls, values)
        return settings

    def rate(self, number: int) -> float:
        """Return the learning rate of a round, numbered from 1."""
        done = (number - 1) / max(self.rounds - 1, 1)
        return self.lr * ((1 + math.cos(math.pi * done)) / 2 * (1 - self.lrf) + self.lrf)


def take_fields(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Return a dataclass with the values of its fields' names, in which `-` counts as `_`."""
    names = {field.name for field in dataclasses.fields(cls)}
    given = {str(key).replace("-", "_"): value for key, value in values.items()}
    return cls(**{name: value for name, value in given.items() if name in names})


def _check_type(name: str, value: object, default: object) -> None:
    allowed = (int, float) if isinstance(default, float) else type(default)
    is_flag = isinstance(value, bool) and not isinstance(default, bool)
    if is_flag or not isinstance(value, allowed):
        raise ConfigError(
            f"{name} is {excerpt(repr(value))}; expected {type(default).__name__}", argument=name
        )

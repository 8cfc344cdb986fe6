"""What server and devices send each other, whatever carries it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.fleet.settings import MAX_SETTING
from exportloss.runtime.artifact.weights import Weights, WeightsLayout
from exportloss.runtime.federated.differences import add_difference

__all__ = ["Answer", "Result", "Task", "Vectors"]

_RUN = re.compile(r"[0-9a-f]{16}")
_NUMBERS = ("lr", "momentum", "weight_decay", "proximal")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Flat vectors as they are sent, not checked yet.

    Attributes:
        parameters: (P,) float32, or a difference in float16.
        statistics: (S,) float32.
        digest: Digest of the layout.
    """

    parameters: npt.NDArray[Any]
    statistics: npt.NDArray[Any]
    digest: str

    @classmethod
    def of(cls, weights: Weights) -> Vectors:
        """Return the vectors of weights, not copied."""
        return cls(
            parameters=weights.parameters,
            statistics=weights.statistics,
            digest=weights.layout.digest,
        )

    @property
    def is_difference(self) -> bool:
        """Whether the parameters are a difference in float16."""
        return bool(self.parameters.dtype == np.float16)

    @property
    def nbytes(self) -> int:
        """Bytes of both vectors."""
        return self.parameters.nbytes + self.statistics.nbytes

    def check(self, layout: WeightsLayout, *, base: Weights | None = None) -> Weights:
        """Return checked weights.

        Args:
            layout: Expected layout.
            base: Weights that a float16 difference is added to; None if none is expected.

        Raises:
            ArtifactError: the layout is another, or a value or vector is bad.
        """
        if self.digest != layout.digest:
            raise ArtifactError(
                f"another model's weights: layout {excerpt(self.digest, 12)}, expected "
                f"{layout.digest[:12]}; use artifacts of one export on every device and the server"
            )
        parameters = self.parameters
        if base is not None:
            parameters = add_difference(base.parameters, parameters)
        return Weights(layout=layout, parameters=parameters, statistics=self.statistics)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What the server asks of a device. No path, no code: numbers, words and weights.

    Attributes:
        action: `"train"` for a round, `"finish"` for the detector that the run ends with.
        run: Name of the run, 16 hexadecimal digits.
        round: Number of the round, from 1.
        share: As in `FleetSettings`, like the fields below.
        local_epochs, lr, momentum, weight_decay, proximal, half, calibrate, seed: as there; `lr` is
            the round's.
        start: SHA-256 of the weights in the artifacts, to which `vectors` are a difference; "" if
            they are not.
        vectors: Global weights.

    Raises:
        ConfigError: a value is of another type or out of range.
    """

    action: Literal["train", "finish"]
    run: str
    round: int
    share: str
    local_epochs: int
    lr: float
    momentum: float
    weight_decay: float
    proximal: float
    half: bool
    calibrate: bool
    seed: int
    start: str
    vectors: Vectors

    def __post_init__(self) -> None:
        if self.action not in ("train", "finish"):
            raise ConfigError(f"the task is {excerpt(repr(self.action))}; expected train or finish")
        if not isinstance(self.run, str) or not _RUN.fullmatch(self.run):
            raise ConfigError(f"run is {excerpt(repr(self.run))}; expected 16 hexadecimal digits")
        if not isinstance(self.start, str):
            raise ConfigError(f"start is {excerpt(repr(self.start))}; expected text")
        for name in ("round", "local_epochs", "seed", *_NUMBERS):
            value, kind = getattr(self, name), (int, float) if name in _NUMBERS else int
            ranged = isinstance(value, kind) and 0 <= value <= MAX_SETTING
            if not ranged or isinstance(value, bool):
                raise ConfigError(
                    f"{name} is {excerpt(repr(value))}; expected a number in [0, {MAX_SETTING:g}]"
                )

    @property
    def settings(self) -> dict[str, Any]:
        """All fields but the vectors."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name != "vectors"}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What a device answers.

    Attributes:
        name: Name of the device.
        images: Images trained on, the weight of its result in the average.
        metrics: Losses or average precisions by name.
        vectors: Weights after training; None for `"finish"`.
    """

    name: str
    images: int
    metrics: Mapping[str, float]
    vectors: Vectors | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer with its sender.

    Attributes:
        node: Number that the network gives the device.
        result: Result, or the reason why there is none.
    """

    node: int
    result: Result | str

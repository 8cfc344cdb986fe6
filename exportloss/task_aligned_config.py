"""Settings of the anchor-free loss, under the names that the family's hyperparameter files use."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, Literal, get_args

from exportloss.errors import ConfigError, excerpt
from exportloss.hyp_settings import HypSettings

__all__ = ["AssignmentProfile", "TaskAlignedConfig"]

AssignmentProfile = Literal["8.4", "8.3", "yolov9"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskAlignedConfig(HypSettings):
    """Options of the anchor-free loss; the defaults are those of YOLOv8 and YOLO11.

    Attributes:
        box: Gain of the box term, >= 0.
        cls: Gain of the class term, >= 0.
        dfl: Gain of the distance term, >= 0.
        reg_max: Bins per distance, >= 1. With 1 a distance is predicted directly, and the distance
            term is L1 instead of the distribution focal loss.
        topk: Cells that each target row selects, >= 1.
        topk2: Cells that each target row keeps at most after shared cells are settled, >= 1 and at
            most `topk`. The default keeps all cells of a row, whatever `topk` is; 1 is one-to-one
            assignment, for detectors that need no non-maximum suppression.
        profile: Edges of the assignment: those of release 8.4 or 8.3 of YOLOv8's original, or
            those of YOLOv9's MIT-licensed implementation. See `docs/task-aligned-loss.md`.

    Raises:
        ConfigError: a value is out of range.
    """

    kind: ClassVar[str] = "task-aligned"  # see `exportloss.loss_kinds`

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5
    reg_max: int = 16
    topk: int = 10
    topk2: int = 10
    profile: AssignmentProfile = "8.4"

    def __post_init__(self) -> None:
        for name in ("box", "cls", "dfl"):
            if not _is_gain(value := getattr(self, name)):
                raise ConfigError(
                    f"{name} is {excerpt(repr(value))}; expected a finite number >= 0"
                )
        for name in ("reg_max", "topk", "topk2"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise ConfigError(f"{name} is {excerpt(repr(value))}; expected a whole number >= 1")
        if self.topk < self.topk2 != TaskAlignedConfig.topk2:
            raise ConfigError(
                f"topk2 is {self.topk2}, above topk, {self.topk}, where it limits nothing; "
                "expected topk2 <= topk"
            )
        if self.profile not in (known := get_args(AssignmentProfile)):
            raise ConfigError(f"profile is {excerpt(repr(self.profile))}; expected one of {known}")

    def scaled(
        self, *, levels: int, num_classes: int, image_size: tuple[int, int]
    ) -> TaskAlignedConfig:
        """Return the same options: the gains of this family apply to every model and image size."""
        return self

    def unscaled(
        self, *, levels: int, num_classes: int, image_size: tuple[int, int]
    ) -> TaskAlignedConfig:
        """Return the same options, see `scaled`."""
        return self


def _is_gain(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]

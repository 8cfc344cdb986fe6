"""Settings of non-maximum suppression in a detector's graph. Needs neither torch nor onnx."""

from __future__ import annotations

import dataclasses

from exportloss.bounds import at_least
from exportloss.errors import ConfigError

__all__ = ["NmsSettings"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NmsSettings:
    """Settings of non-maximum suppression; the defaults are those of YOLOv5's detect.py.

    Attributes:
        conf_thres: confidence (objectness times class probability) that a box must exceed, in [0,
            1].
        iou_thres: IoU with a more confident box of its class above which a box is dropped, in [0,
            1].
        max_det: most boxes kept per image, >= 1.

    Raises:
        ConfigError: a number is out of range.
    """

    conf_thres: float = 0.25
    iou_thres: float = 0.45
    max_det: int = 300

    def __post_init__(self) -> None:
        for name in ("conf_thres", "iou_thres"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"{name} is {value}; expected a number in [0, 1]")
        at_least(1, max_det=self.max_det)

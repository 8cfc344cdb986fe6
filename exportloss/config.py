"""Settings of the loss, under the names that YOLOv5's hyperparameter files use."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, get_args

from exportloss.errors import ConfigError, excerpt
from exportloss.hyp_settings import HypSettings

__all__ = ["Criterion", "LossConfig"]

Criterion = Literal["bce", "focal", "qfocal", "blur"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig(HypSettings):
    """Options of the YOLOv5 loss; the defaults are those of `hyp.scratch-low.yaml`, unscaled.

    Attributes:
        box: Gain of the box term, >= 0.
        cls: Gain of the class term, >= 0.
        cls_pw: Weight of positives in the class criterion, > 0.
        obj: Gain of the objectness term, >= 0.
        obj_pw: Weight of positives in the objectness criterion, > 0.
        anchor_t: Limit of the ratio between a target's side and the anchor's, > 1. A target
            matches an anchor if the ratios of both sides, each taken as >= 1, are below the limit.
        fl_gamma: Exponent of the focal criteria, >= 0. With `criterion="bce"` a value above 0
            selects the focal loss, as in YOLOv5.
        label_smoothing: Epsilon of `smooth_BCE`, in [0, 1).
        gr: Fraction of the IoU in the objectness target, in [0, 1]: the target is
            (1 - gr) + gr * IoU.
        sort_obj_iou: Whether the match with the largest IoU wins a shared cell, instead of the
            last one.
        autobalance: Whether every step updates the objectness weights of the levels.
        criterion: Criterion for classes and objectness: binary cross-entropy, focal loss (arXiv
            1708.02002), quality focal loss (arXiv 2006.04388) or blurred BCE.
        focal_alpha: Weight of positives in the focal criteria, in [0, 1].
        blur_alpha: Width of the blur of `criterion="blur"`, > 0.

    Raises:
        ConfigError: a value is out of range, or two values contradict each other.
    """

    kind: ClassVar[str] = "yolov5"  # see `exportloss.loss_kinds`

    box: float = 0.05
    cls: float = 0.5
    cls_pw: float = 1.0
    obj: float = 1.0
    obj_pw: float = 1.0
    anchor_t: float = 4.0
    fl_gamma: float = 0.0
    label_smoothing: float = 0.0
    gr: float = 1.0
    sort_obj_iou: bool = False
    autobalance: bool = False
    criterion: Criterion = "bce"
    focal_alpha: float = 0.25
    blur_alpha: float = 0.05

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.default)
        for names, is_valid, expected in (
            (("box", "cls", "obj", "fl_gamma"), lambda v: v >= 0, "a number >= 0"),
            (("cls_pw", "obj_pw", "blur_alpha"), lambda v: v > 0, "a number > 0"),
            (("anchor_t",), lambda v: v > 1, "a number > 1"),
            (("label_smoothing",), lambda v: 0 <= v < 1, "a number in [0, 1)"),
            (("gr", "focal_alpha"), lambda v: 0 <= v <= 1, "a number in [0, 1]"),
            (("criterion",), lambda v: v in get_args(Criterion), f"one of {get_args(Criterion)}"),
        ):
            for name in names:
                if not is_valid(value := getattr(self, name)):
                    raise ConfigError(f"{name} is {excerpt(repr(value))}; expected {expected}")
        if self.criterion in ("focal", "qfocal") and self.fl_gamma == 0:
            raise ConfigError(
                f"criterion {self.criterion!r} needs fl_gamma > 0 (1.5 is usual), got 0; "
                'set fl_gamma, or choose criterion="bce"'
            )
        if self.criterion == "blur" and self.fl_gamma > 0:
            raise ConfigError(
                f'criterion "blur" takes no fl_gamma, got {self.fl_gamma}; set fl_gamma to 0'
            )

    @property
    def effective_criterion(self) -> Criterion:
        """Criterion in force: `"bce"` with `fl_gamma > 0` means focal, as in YOLOv5."""
        return "focal" if self.criterion == "bce" and self.fl_gamma > 0 else self.criterion

    def scaled(self, *, levels: int, num_classes: int, image_size: tuple[int, int]) -> LossConfig:
        """Scale the gains to a model and image size, as YOLOv5's training command does.

        The gains of a hyperparameter file apply to 3 levels, 80 classes and 640 pixels.

        Args:
            levels: Number of the model's levels, nl >= 1.
            num_classes: Number of the model's classes, nc >= 1.
            image_size: Height and width in pixels; only the longer side matters.

        Returns:
            The same options with `box` * 3 / nl, `cls` * 3 / nl * nc / 80 and `obj` * 3 / nl *
            (longer side / 640)^2.
        """
        by_level = 3 / levels
        return dataclasses.replace(
            self,
            box=self.box * by_level,
            cls=self.cls * num_classes / 80 * by_level,
            obj=self.obj * (max(image_size) / 640) ** 2 * by_level,
        )

    def unscaled(self, *, levels: int, num_classes: int, image_size: tuple[int, int]) -> LossConfig:
        """Return the options that `scaled`, with the same arguments, turns into these.

        Several gains may scale to the same float. Of those, the one with the fewest digits is
        returned: most likely the one in the hyperparameter file.

        Args:
            levels: Number of the model's levels, nl >= 1.
            num_classes: Number of the model's classes, nc >= 1.
            image_size: Height and width in pixels.
        """

        def scale(name: str, value: float) -> float:
            gain: dict[str, Any] = {name: value}
            config = dataclasses.replace(self, **gain).scaled(
                levels=levels, num_classes=num_classes, image_size=image_size
            )
            scaled: float = getattr(config, name)
            return scaled

        def unscale(name: str) -> float:
            held: float = getattr(self, name)
            near = held / scale(name, 1.0)
            short = (float(f"{near:.{digits}g}") for digits in range(1, 18))
            candidates = (*short, math.nextafter(near, 0), math.nextafter(near, math.inf))
            return next((value for value in candidates if scale(name, value) == held), near)

        gains: dict[str, Any] = {name: unscale(name) for name in ("box", "cls", "obj")}
        return dataclasses.replace(self, **gains)


def _check_type(name: str, value: object, default: object) -> None:
    if isinstance(default, bool):
        valid, expected = isinstance(value, bool), "true or false"
    elif isinstance(default, float):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        valid, expected = is_number and math.isfinite(value), "a finite number"  # type: ignore[arg-type]
    else:
        valid, expected = isinstance(value, str), "a word"
    if not valid:
        raise ConfigError(f"{name} is {excerpt(repr(value))}; expected {expected}")

"""YOLOv5's head and loss in one module; the head is evaluated only in the cells the loss needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from exportloss.errors import ConfigError
from exportloss.loss.levels import HeadInput
from exportloss.loss.yolo_loss import Result, YoloLoss

__all__ = ["SparseHeadLoss", "head_inputs"]


class SparseHeadLoss(nn.Module):
    """The loss computed from the head's input, without the head's maps.

    The loss reads objectness in every cell, but boxes and classes only where a target may match.
    So objectness is computed densely, and boxes and classes only in those cells: the same loss and
    gradients, in a fraction of the time and memory if there are many classes and cells.

        loss = SparseHeadLoss(model.detect, YoloLoss(model.anchors_px, model.strides, 80))
        value, items = loss(model.features(images), targets)

    For YOLOv5's own models, in any training loop, see `head_inputs`. The head's parameters remain
    the model's: they are not among the `parameters()` of this module.

    Args:
        head: Detection layer. Its `m` holds one 1x1 convolution with bias per level, with
            na * (5 + nc) output channels, as in `exportloss.models.Detect`.
        loss: Loss for the same number of levels, anchors and classes.

    Raises:
        ConfigError: head and loss do not fit together, or the head is of another kind.
    """

    def __init__(self, head: nn.Module, loss: YoloLoss) -> None:
        super().__init__()
        self.loss = loss
        convolutions = getattr(head, "m", None)
        levels, na = loss.anchors.shape[:2]
        channels = na * (5 + loss.num_classes)
        if not isinstance(convolutions, nn.ModuleList) or len(convolutions) != levels:
            raise ConfigError(
                f"the head {type(head).__name__} has no `m` of {levels} convolutions, one per "
                "level; pass the detection layer, or apply the loss to the head's maps"
            )
        for index, convolution in enumerate(convolutions):
            if not _is_pointwise(convolution, channels):
                raise ConfigError(
                    f"level {index} of the head is {convolution}; expected a 1x1 convolution with "
                    f"bias and {channels} output channels; apply the loss to the head's maps"
                )
        self._head = (head,)  # a tuple keeps it from being registered

    def forward(
        self,
        features: Sequence[Tensor],
        targets: Tensor,
        balance: Tensor | Mapping[str, Tensor] | None = None,
    ) -> Result:
        """Compute the loss of a batch.

        Args:
            features: Head's inputs, one (B, C, H, W) map per level, fine to coarse.
            targets: (max_targets, 6) from `pad_targets`.
            balance: Objectness weights, as for `YoloLoss`.

        Returns:
            Results of `YoloLoss`.

        Raises:
            ConfigError: the number of levels is wrong, or `balance` is missing.
        """
        (head,) = self._head
        convolutions: Sequence[Any] = head.m  # type: ignore[assignment]
        if len(features) != len(convolutions):
            raise ConfigError(f"got {len(features)} feature maps, expected {len(convolutions)}")
        na = self.loss.anchors.shape[1]
        levels = [
            HeadInput(level, convolution.weight, convolution.bias, na)
            for level, convolution in zip(features, convolutions, strict=True)
        ]
        return self.loss.of_levels(levels, targets, balance)


def head_inputs(model: nn.Module, head: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Run a detector up to its head and return the head's inputs, for `SparseHeadLoss`.

    This is for models without such a method, as YOLOv5's own, whose head is `model.model[-1]`. The
    model's forward runs with a head that records its inputs and computes nothing.

    Args:
        model: Detector whose forward takes `images` and calls `head` last.
        head: Head of the detector.
        images: Input of the detector, such as (B, 3, H, W).

    Returns:
        One (B, C, H, W) map per level.

    Raises:
        ConfigError: the model did not call its head.
    """
    taken: list[Tensor] = []

    def keep(*features: Any) -> Any:
        taken.extend(features if isinstance(features[0], Tensor) else features[0])
        return features[0]

    head.forward = keep
    try:
        model(images)
    finally:
        del head.forward
    if not taken:
        raise ConfigError(f"{type(model).__name__} did not call the head {type(head).__name__}")
    return tuple(taken)


def _is_pointwise(module: nn.Module, channels: int) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.bias is not None
        and module.out_channels == channels
        and (module.kernel_size, module.stride) == ((1, 1), (1, 1))
        and (module.padding, module.groups) in {((0, 0), 1), (0, 1)}
    )

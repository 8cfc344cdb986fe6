"""YOLOv5's head and loss in one, with the head evaluated only where the loss looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from exportloss.errors import ConfigError
from exportloss.loss.levels import HeadInput
from exportloss.loss.yolo_loss import YoloLoss

__all__ = ["SparseHeadLoss", "head_inputs"]


class SparseHeadLoss(nn.Module):
    """The loss from the head's input, without the head's maps.

    The loss reads objectness in every cell, but boxes and classes only where a target may match.
    So objectness is computed densely and all else in the cells of the target slots: the same loss
    and gradients, in a fraction of time and memory where there are many classes and cells.

        loss = SparseHeadLoss(model.detect, YoloLoss(model.anchors_px, model.strides, 80))
        value, items = loss(model.features(images), targets)

    It works on YOLOv5's own models too, in any training loop, see `head_inputs`. The head's
    parameters stay the model's: they are not among `parameters()` here.

    Args:
        head: detection layer. Its `m` holds a 1x1 convolution with bias per level, to na * (5 + nc)
            channels, as that of `exportloss.models.Detect`.
        loss: loss of the same number of levels, anchors and classes.

    Raises:
        ConfigError: head and loss do not fit, or the head is of another kind.
    """

    def __init__(self, head: nn.Module, loss: YoloLoss) -> None:
        super().__init__()
        self.loss = loss
        convolutions = getattr(head, "m", None)
        levels, na = loss.anchors.shape[:2]
        channels = na * (5 + loss.num_classes)
        if not isinstance(convolutions, nn.ModuleList) or len(convolutions) != levels:
            raise ConfigError(
                f"the head {type(head).__name__} has no `m` of {levels} convolutions, one a level; "
                "pass the detection layer, or take the loss of its maps"
            )
        for index, convolution in enumerate(convolutions):
            if not _is_pointwise(convolution, channels):
                raise ConfigError(
                    f"level {index} of the head is {convolution}; expected a 1x1 convolution with "
                    f"bias to {channels} channels; take the loss of the head's maps"
                )
        self._head = (head,)  # in a tuple, it is not registered

    def forward(
        self, features: Sequence[Tensor], targets: Tensor, balance: Tensor | None = None
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Compute the loss of a batch.

        Args:
            features: one (B, C, H, W) map per level, fine to coarse: the head's inputs.
            targets: (max_targets, 6) from `pad_targets`.
            balance: as `YoloLoss` takes it.

        Returns:
            What `YoloLoss` returns.

        Raises:
            ConfigError: the number of levels is another, or `balance` is missing.
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
    """Run a detector up to its head, and return the head's inputs, for `SparseHeadLoss`.

    For models that have no method for it, such as YOLOv5's own, whose head is `model.model[-1]`.
    `model`'s own forward runs, with a head that keeps its inputs and computes nothing.

    Args:
        model: detector whose forward takes `images` and calls `head` last.
        head: module of `model`.
        images: input of `model`, such as (B, 3, H, W).

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

"""Model, loss and decoding as one traceable module, and its description for exporters."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from exportloss.bounds import at_least
from exportloss.errors import ExportError
from exportloss.export.detector.head_choice import HeadChoice, choose_head
from exportloss.loss.output import LossOutput
from exportloss.loss.protocol import DetectionLoss
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.models import (
    DetectorModel,
    ParameterGroups,
    freeze,
    parameter_groups,
    train_only,
)
from exportloss.runtime.artifact.manifest import BatchNormStatistics, Head

__all__ = ["DetectorGraph", "ImageLoss", "TrainableDetector", "prepare"]

STATISTICS = ("running_mean", "running_var")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainableDetector:
    """A model prepared for export and checked against its loss.

    Attributes:
        model: Copy of the model in evaluation mode, with frozen layers replaced.
        loss: Loss of the model.
        image_loss: Model and loss in one module, as they are trained.
        groups: Names of the trainable parameters.
        parameters: Names of all parameters, including frozen ones.
        buffers: Names of all running statistics.
        statistics: BatchNorm layers whose statistics are trained.
        images: (B, 3, H, W) zeros, an example input.
        targets: (max_targets, 6) zeros, an example input.
    """

    model: nn.Module
    loss: DetectionLoss
    image_loss: ImageLoss
    groups: ParameterGroups
    parameters: tuple[str, ...]
    buffers: tuple[str, ...]
    statistics: tuple[BatchNormStatistics, ...]
    images: Tensor
    targets: Tensor


class ImageLoss(nn.Module):
    """Model and loss in one: (images, targets, state of the loss) -> `LossOutput`."""

    detector: Any  # a module; a sparse head also needs its `features` and `detect`
    loss: nn.Module

    def __init__(self, model: nn.Module, loss: DetectionLoss, head: Head) -> None:
        super().__init__()
        self.detector = model
        self.head = head
        if head == "sparse":
            assert isinstance(loss, YoloLoss)  # by `choose_head`
            self.loss = SparseHeadLoss(self.detector.detect, loss)
        else:
            self.loss = cast("nn.Module", loss)

    def network(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the inputs of the loss: the head's maps, or its features if it is sparse."""
        found: tuple[Tensor, ...] = (
            self.detector.features if self.head == "sparse" else self.detector
        )(images)
        return found

    def forward(
        self,
        images: Tensor,
        targets: Tensor,
        state: Mapping[str, Tensor],
        mode: contextlib.AbstractContextManager[Any] | None = None,
    ) -> LossOutput:
        """Compute the loss of a batch.

        The network runs in `mode`, such as `HalfPrecision`. The loss, and a sparse head in it,
        does not.
        """
        with mode or contextlib.nullcontext():
            found = self.network(images)
        read = tuple(level.float() for level in found)
        output: LossOutput = self.loss(read, targets, state)
        return output


class DetectorGraph(nn.Module):
    """`ImageLoss` with the state of the loss tensor by tensor, and with boxes.

    The last output is output0, the boxes, if the model has a `decode`.
    """

    def __init__(self, detector: TrainableDetector) -> None:
        super().__init__()
        self.image_loss = detector.image_loss
        self._state = tuple(detector.loss.initial_state)

    def forward(self, images: Tensor, targets: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Compute the loss and, if the model has a `decode`, the boxes."""
        model, read = self.image_loss.detector, self.image_loss.network(images)
        named = dict(zip(self._state, state, strict=True))
        output: LossOutput = self.image_loss.loss(read, targets, named)
        after = (output.state[name] for name in self._state)
        outputs = (output.loss, output.terms, *after)
        if not hasattr(model, "decode"):
            return outputs
        levels = model.detect(*read) if self.image_loss.head == "sparse" else read
        return (*outputs, model.decode(levels))


def prepare(
    model: nn.Module,
    loss: DetectionLoss,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    frozen: int | Sequence[int] = 0,
    update: str | Sequence[str] = "all",
    head: HeadChoice = "auto",
) -> TrainableDetector:
    """Copy a model, freeze layers, and run it once to check that model and loss fit together.

    Args:
        model: Detector; forward takes (B, 3, H, W) in [0, 1] and returns one raw map per level.
        loss: Loss for the same classes, anchors (if it has any) and levels.
        image_size: Height and width in pixels.
        batch_size: Images per batch, >= 1.
        max_targets: Target rows per batch, >= 1.
        frozen: Layers to freeze, as for `exportloss.models.freeze`.
        update: Parameters to train of the others, as for `exportloss.models.train_only`.
        head: Form of evaluating the head in training, as for `choose_head`.

    Raises:
        ExportError: model and loss do not fit together, or a batch is too small to normalise.
        ConfigError: the layers to freeze or the parameters to train do not exist, or the image size
            does not suit the model.
    """
    at_least(1, ExportError, batch_size=batch_size, max_targets=max_targets)
    model = copy.deepcopy(model).cpu().float().eval()
    if frozen not in (0, [], (), [0], (0,)):
        if not callable(getattr(type(model), "layers", None)):
            raise ExportError(
                f"freeze needs a model with a method `layers`, got a {type(model).__name__}; set "
                "requires_grad=False on its parameters instead"
            )
        freeze(cast("DetectorModel", model), frozen)
    train_only(model, update)
    images = torch.zeros(batch_size, 3, *image_size)
    statistics = _run_once(model, loss, images)
    chosen = choose_head(model, loss, head, images=images, max_targets=max_targets)
    return TrainableDetector(
        model=model,
        loss=loss,
        image_loss=ImageLoss(model, loss, chosen),
        groups=parameter_groups(model),
        parameters=tuple(name for name, _ in model.named_parameters()),
        buffers=tuple(
            name for name, _ in model.named_buffers() if name.rpartition(".")[2] in STATISTICS
        ),
        statistics=statistics,
        images=images,
        targets=torch.zeros(max_targets, 6),
    )


@torch.no_grad()
def _run_once(
    model: nn.Module, loss: DetectionLoss, images: Tensor
) -> tuple[BatchNormStatistics, ...]:
    """Run model and loss for their shape checks; count the values per channel of each BatchNorm."""
    seen: dict[str, BatchNormStatistics] = {}

    def record(name: str, norm: nn.BatchNorm2d, x: Tensor) -> None:
        count = x.numel() // x.shape[1]
        if count < 2:
            raise ExportError(
                f"{name} would normalise over {count} value per channel, expected at least 2; use "
                "a larger image size or batch to train it"
            )
        if norm.momentum is None:
            raise ExportError(
                f"{name} has momentum None (a cumulative average); set it to a number"
            )
        seen[name] = BatchNormStatistics(
            mean=f"{name}.running_mean",
            var=f"{name}.running_var",
            count=count,
            momentum=norm.momentum,
        )

    handles = [
        module.register_forward_pre_hook(lambda norm, args, name=name: record(name, norm, args[0]))
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        levels = model(images)
    finally:
        for handle in handles:
            handle.remove()
    height, width = images.shape[2:]
    strides = [height // level.shape[2] for level in levels if level.ndim in (4, 5)]
    if strides != (expected := [int(stride) for stride in loss.strides]):
        raise ExportError(
            f"the model's levels have strides {strides} at {height} x {width} pixels, expected "
            f"{expected}, as the loss has them"
        )
    loss(levels, torch.zeros(1, 6), loss.initial_state)
    return tuple(seen.values())

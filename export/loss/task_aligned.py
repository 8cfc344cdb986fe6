"""The anchor-free loss alone as ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from exportloss.bounds import at_least
from exportloss.errors import ExportError
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.loss.buckets import choose_buckets
from exportloss.loss.task_aligned.loss import TaskAlignedLoss
from exportloss.runtime.artifact.loss_signature import gradient_name
from exportloss.runtime.artifact.manifest import LossProvider, check_tiers

__all__ = ["task_aligned_graph", "task_aligned_graphs"]


def task_aligned_graphs(
    loss: TaskAlignedLoss,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    tiers: Sequence[int] | None = None,
    gradients: bool = False,
    provider: LossProvider = "any",
) -> Mapping[int, ir.Model]:
    """Export the loss for several numbers of target rows, for the smallest that suffices to run.

    Every target row meets every cell of its image, used or not, so the number of rows decides most
    of a graph's time.

    Args:
        loss: Loss to export.
        image_size: Height and width of the images in pixels, multiples of the largest stride.
        batch_size: Images per batch, >= 1.
        max_targets: Maximum number of target rows per batch, >= 1.
        tiers: Size buckets: smaller numbers of target rows, ascending. () means none; None means
            the powers of two from 32 to two thirds of `max_targets`.
        gradients: Whether the graphs include the backward pass.
        provider: See `task_aligned_graph`.

    Returns:
        One graph per number of rows, ascending.

    Raises:
        ExportError: the sizes do not suit the loss, or the tiers are not ascending numbers from 1
            to below `max_targets`.
    """
    at_least(1, ExportError, max_targets=max_targets)
    tiers = choose_buckets(max_targets) if tiers is None else tuple(tiers)
    check_tiers(tiers, max_targets, error=ExportError)
    return {
        rows: task_aligned_graph(
            loss,
            image_size=image_size,
            batch_size=batch_size,
            max_targets=rows,
            gradients=gradients,
            provider=provider,
        )
        for rows in (*tiers, max_targets)
    }


def task_aligned_graph(
    loss: TaskAlignedLoss,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    gradients: bool = False,
    provider: LossProvider = "any",
) -> ir.Model:
    """Export the loss as a graph for any ONNX runtime.

    Inputs are `predictions_0`, ..., the maps (B, 4 R + nc, H, W) from fine to coarse, and `targets`
    (max_targets, 6). Outputs are `loss` () and `items` (3,), the terms box, cls and dfl. With
    `gradients` there are also `gradient_0`, ..., in the shapes of the maps.

    Args:
        loss: Loss to export.
        image_size: Height and width of the images in pixels, multiples of the largest stride.
        batch_size: Images per batch, >= 1.
        max_targets: Number of target rows, >= 1.
        gradients: Whether the graph includes the backward pass.
        provider: Target of the graph. For "cpu", ONNX Runtime's CPU provider alone, a target row's
            best cells are found by TopK; for "any" runtime and a "gpu", by rounds of ArgMax, whose
            order of equal values is the same everywhere.

    Raises:
        ExportError: the sizes do not suit the loss.
    """
    at_least(1, ExportError, max_targets=max_targets)
    example = _example(loss, image_size, batch_size)

    def compute(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        maps = {name: inputs[name].detach().requires_grad_(gradients) for name in example}
        result = loss(list(maps.values()), inputs["targets"])
        found = torch.autograd.grad(result.loss, list(maps.values())) if gradients else ()
        names = [gradient_name(name) for name in maps] if gradients else ()
        return {
            "loss": result.loss.detach(),
            "items": result.terms,
            **dict(zip(names, found, strict=True)),
        }

    inputs = {**example, "targets": torch.zeros(max_targets, 6)}
    return to_onnx(compute, inputs, name="loss", modules={"loss": loss}, provider=provider)


def _example(
    loss: TaskAlignedLoss, image_size: tuple[int, int], batch_size: int
) -> dict[str, Tensor]:
    height, width = image_size
    largest = loss.strides[-1]
    if batch_size < 1 or height < 1 or width < 1 or height % largest or width % largest:
        raise ExportError(
            f"batch_size is {batch_size} and image_size {image_size}; expected at least 1, and "
            f"multiples of {largest}"
        )
    channels = 4 * loss.config.reg_max + loss.num_classes
    return {
        f"predictions_{i}": torch.zeros(batch_size, channels, height // stride, width // stride)
        for i, stride in enumerate(loss.strides)
    }

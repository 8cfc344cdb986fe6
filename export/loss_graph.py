"""The loss alone as an ONNX graph, for pipelines that run the network elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor

from exportloss.errors import ExportError
from exportloss.export.aten_to_onnx import to_onnx
from exportloss.export.description import (
    anchors_in_pixels,
    class_names,
    graph_metadata,
    versions,
)
from exportloss.export.graph import OPSET
from exportloss.loss import YoloLoss
from exportloss.runtime.files import new_folder, write_artifact
from exportloss.runtime.manifest import Manifest

__all__ = ["export_loss"]


def export_loss(
    loss: YoloLoss,
    folder: str | Path,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    gradients: bool = False,
    names: Sequence[str] | None = None,
    exist_ok: bool = False,
) -> Manifest:
    """Write `loss.onnx` and its manifest: the loss as a graph for any ONNX runtime.

    Inputs `predictions_0`, ... (B, na, H / stride, W / stride, 5 + nc) from fine to coarse,
    `targets` (max_targets, 6) and `balance` (nl,); outputs `loss` (), `items` (3,) and
    `new_balance` (nl,), all float32. With `gradients` also `gradient_0`, ..., shaped as the
    predictions: d loss / d predictions, to be handed to the network's own backward pass.

    Args:
        loss: the loss to export.
        folder: where to write; complete or absent afterwards.
        image_size: height and width of the pictures, pixels; multiples of the largest stride.
        batch_size: pictures in a batch, >= 1.
        max_targets: target rows in a batch, >= 1.
        gradients: whether the graph has the backward pass too.
        names: class names; default the class numbers.
        exist_ok: replace an artifacts folder that is there.

    Raises:
        ExportError: the sizes do not suit the loss.
        ArtifactError: the folder is in use or cannot be written.
    """
    predictions = _example_predictions(loss, image_size, batch_size)
    if max_targets < 1:
        raise ExportError(f"max_targets is {max_targets}; expected at least 1")
    manifest = Manifest(
        kind="loss",
        names=class_names(names, loss.num_classes),
        anchors=anchors_in_pixels(loss),
        strides=tuple(loss.strides.tolist()),
        image_size=image_size,
        batch_size=batch_size,
        max_targets=max_targets,
        loss=loss.config,
        gradients=gradients,
        opset=OPSET,
        versions=versions(),
    )
    with new_folder(folder, exist_ok=exist_ok) as temporary:
        graph = _loss_graph(loss, predictions, max_targets=max_targets, gradients=gradients)
        graph.metadata_props.update(graph_metadata(manifest))
        ir.save(graph, temporary / "loss.onnx")
        return write_artifact(temporary, manifest)


def _loss_graph(
    loss: YoloLoss, predictions: Sequence[Tensor], *, max_targets: int, gradients: bool
) -> ir.Model:
    names = [f"predictions_{level}" for level in range(len(predictions))]
    example = {
        **dict(zip(names, predictions, strict=True)),
        "targets": torch.zeros(max_targets, 6),
        "balance": loss.initial_balance,
    }

    def compute(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        levels = [inputs[name].detach().requires_grad_(gradients) for name in names]
        value, items, balance = loss(levels, inputs["targets"], inputs["balance"])
        found = torch.autograd.grad(value, levels) if gradients else ()
        return {
            "loss": value.detach(),
            "items": items,
            "new_balance": balance,
            **{f"gradient_{level}": gradient for level, gradient in enumerate(found)},
        }

    return to_onnx(compute, example, name="loss", modules={"loss": loss})


def _example_predictions(
    loss: YoloLoss, image_size: tuple[int, int], batch_size: int
) -> list[Tensor]:
    height, width = image_size
    largest = int(loss.strides.max())
    if batch_size < 1 or height < 1 or width < 1 or height % largest or width % largest:
        raise ExportError(
            f"batch_size is {batch_size} and image_size {image_size}; expected at least 1, and "
            f"multiples of {largest}"
        )
    na, channels = loss.anchors.shape[1], 5 + loss.num_classes
    return [
        torch.zeros(batch_size, na, height // stride, width // stride, channels)
        for stride in map(int, loss.strides.tolist())
    ]

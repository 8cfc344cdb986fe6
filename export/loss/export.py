"""The loss alone as an ONNX graph, for pipelines that run the network elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import torch
from torch import Tensor, nn

from exportloss.bounds import at_least
from exportloss.errors import ExportError
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.aten.tracing import region
from exportloss.export.detector.describe import (
    anchors_in_pixels,
    class_names,
    graph_metadata,
    versions,
)
from exportloss.export.loss.buckets import choose_buckets
from exportloss.export.torch_export import OPSET
from exportloss.loss.levels import HeadInput
from exportloss.loss.output import LossOutput
from exportloss.loss.protocol import DetectionLoss
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.loss_kinds import LOSS_KINDS
from exportloss.runtime.artifact.folder import new_folder, write_artifact
from exportloss.runtime.artifact.loss_signature import gradient_name
from exportloss.runtime.artifact.manifest import Layout, LossProvider, Manifest, check_tiers

__all__ = ["export_loss"]


def export_loss(
    loss: DetectionLoss,
    folder: str | Path,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    max_targets: int,
    tiers: Sequence[int] | None = None,
    gradients: bool = False,
    layout: Layout | None = None,
    head: nn.Module | None = None,
    names: Sequence[str] | None = None,
    provider: LossProvider = "any",
    exist_ok: bool = False,
) -> Manifest:
    """Write `loss.onnx` and its manifest: the loss as a graph for any ONNX runtime.

    Every target row of a graph costs the same, used or not. So there are graphs for smaller size
    buckets beside it: `loss-32.onnx` and so on, which differ in the size of `targets` only. A batch
    goes to the smallest one with capacity for it, as in `exportloss.runtime.LossSession`.

    Inputs are the predictions, per level from fine to coarse, `targets` (max_targets, 6) and the
    state of the loss; outputs are `loss` (), its terms `items` (3,) and the next state, all
    float32. The state of YOLOv5's loss is `balance` (nl,), the next one `new_balance`; other losses
    have none. The predictions of YOLOv5, for H x W cells per level, are

    | layout | inputs | shape of each |
    |---|---|---|
    | permuted | `predictions_0`, ..., YOLOv5's maps | (B, na, H, W, 5 + nc) |
    | head-output | `predictions_0`, ..., maps of the convolutions | (B, na * (5 + nc), H, W) |
    | head-input | `features_0`, ..., inputs of the head | (B, C, H, W) |
    | | `weight_0`, ..., weights of its convolutions | (na * (5 + nc), C, 1, 1) |
    | | `bias_0`, ..., biases of its convolutions | (na * (5 + nc),) |

    A head-input graph evaluates the head only in the cells that the loss needs. For other kinds of
    losses the layout is always head-output: the maps as the detector returns them.

    With `gradients`, further outputs are `gradient_0`, ..., in the shapes of the predictions or
    features: the gradients of the loss, to pass to the network's own backward pass. In the layout
    head-input there are also `weight_gradient_0`, ... and `bias_gradient_0`, ...

    Args:
        loss: Loss to export.
        folder: Folder to write; complete or absent afterwards.
        image_size: Height and width of the images in pixels, multiples of the largest stride.
        batch_size: Images per batch, >= 1.
        max_targets: Maximum number of target rows per batch, >= 1.
        tiers: Size buckets: smaller numbers of target rows, ascending, each with a graph of its
            own. () means none; None means the powers of two from 32 to two thirds of
            `max_targets`.
        gradients: Whether the graph includes the backward pass.
        layout: Inputs of the graph, see above; None for the first that the kind of loss has.
        head: Detection layer for the layout "head-input", as for `SparseHeadLoss`; its weights are
            inputs, not part of the graph.
        names: Class names, nc of them; default the class numbers.
        provider: Target of the graphs: "any" for every runtime; "cpu" for ONNX Runtime's CPU
            provider alone, which then writes the gradients of maps in one pass; "gpu" for graphs
            without a reducing scatter (`YoloLoss` with `pairwise`), which TensorRT accepts and
            which give the same bits in whatever order a GPU writes. They run everywhere, but are
            slower on a CPU.
        exist_ok: Whether to replace an existing artifacts folder.

    Returns:
        The manifest as written to `manifest.json`.

    Raises:
        ExportError: the sizes do not suit the loss, the tiers are not ascending numbers from 1 to
            below `max_targets`, or the loss does not have the layout, or the layout lacks its head.
        ConfigError: `SparseHeadLoss` does not support the head.
        ArtifactError: the folder is in use or cannot be written.
    """
    loss = loss.as_pairwise() if provider == "gpu" else loss
    layout = _checked_layout(loss, layout)
    example = _example(loss, image_size, batch_size, layout, head)
    at_least(1, ExportError, max_targets=max_targets)
    tiers = choose_buckets(max_targets) if tiers is None else tuple(tiers)
    check_tiers(tiers, max_targets, error=ExportError)
    manifest = Manifest(
        kind="loss",
        names=class_names(names, loss.num_classes),
        anchors=anchors_in_pixels(loss),
        strides=tuple(map(float, loss.strides)),
        image_size=image_size,
        batch_size=batch_size,
        max_targets=max_targets,
        tiers=tiers,
        loss=loss.config,
        gradients=gradients,
        loss_layout=layout,
        provider=provider,
        opset=OPSET,
        versions=versions(),
    )
    with new_folder(folder, exist_ok=exist_ok) as temporary:
        for rows, name in manifest.loss_graphs.items():
            graph = _loss_graph(
                loss,
                example,
                max_targets=rows,
                gradients=gradients,
                provider=provider,
            )
            graph.metadata_props.update(graph_metadata(manifest))
            ir.save(graph, temporary / name)
        return write_artifact(temporary, manifest)


def _checked_layout(loss: DetectionLoss, layout: Layout | None) -> Layout:
    known = LOSS_KINDS[loss.kind].layouts
    if layout is not None and layout not in known:
        raise ExportError(
            f"layout is {layout!r}; a {loss.kind!r} loss has {', '.join(map(repr, known))}",
            argument="layout",
        )
    return layout or known[0]


def _loss_graph(
    loss: DetectionLoss,
    example: dict[str, Tensor],
    *,
    max_targets: int,
    gradients: bool,
    provider: LossProvider,
) -> ir.Model:
    def compute(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        read = {name: inputs[name].detach().requires_grad_(gradients) for name in example}
        state = {name: inputs[name] for name in loss.initial_state}
        output = _output(loss, read, inputs["targets"], state)
        found = torch.autograd.grad(output.loss, list(read.values())) if gradients else ()
        names = [gradient_name(name) for name in read] if gradients else ()
        return {
            "loss": output.loss.detach(),
            "items": output.terms,
            **{f"new_{name}": tensor for name, tensor in output.state.items()},
            **dict(zip(names, found, strict=True)),
        }

    inputs = {
        **example,
        "targets": torch.zeros(max_targets, 6),
        **loss.initial_state,
    }
    modules = {"loss": cast("nn.Module", loss)}
    return to_onnx(compute, inputs, name="loss", modules=modules, provider=provider)


def _output(
    loss: DetectionLoss, read: dict[str, Tensor], targets: Tensor, state: dict[str, Tensor]
) -> LossOutput:
    if "features_0" not in read:
        return loss(list(read.values()), targets, state)
    assert isinstance(loss, YoloLoss)  # by its layouts
    with region("loss"):
        output = loss.of_levels(_head_inputs(loss, read), targets, state)
    assert isinstance(output, LossOutput)  # since a state was given
    return output


def _head_inputs(loss: YoloLoss, read: dict[str, Tensor]) -> list[HeadInput]:
    levels, na = loss.anchors.shape[:2]
    return [
        HeadInput(read[f"features_{level}"], read[f"weight_{level}"], read[f"bias_{level}"], na)
        for level in range(levels)
    ]


def _example(
    loss: DetectionLoss,
    image_size: tuple[int, int],
    batch_size: int,
    layout: Layout,
    head: nn.Module | None,
) -> dict[str, Tensor]:
    height, width = image_size
    largest = int(max(loss.strides))
    if batch_size < 1 or height < 1 or width < 1 or height % largest or width % largest:
        raise ExportError(
            f"batch_size is {batch_size} and image_size {image_size}; expected at least 1, and "
            f"multiples of {largest}"
        )
    na = loss.anchors.shape[1] if isinstance(loss, YoloLoss) else 1
    outputs = LOSS_KINDS[loss.kind].columns(loss.config, loss.num_classes)
    grids = [(height // stride, width // stride) for stride in map(int, loss.strides)]
    if layout != "head-input":
        by_box = layout == "permuted"
        shapes = [(na, *grid, outputs) if by_box else (na * outputs, *grid) for grid in grids]
        return {f"predictions_{i}": torch.zeros(batch_size, *s) for i, s in enumerate(shapes)}
    if head is None:
        raise ExportError('layout "head-input" requires the head whose input it is; pass head=...')
    assert isinstance(loss, YoloLoss)  # by its layouts
    SparseHeadLoss(head, loss)  # raises if they do not fit
    convolutions: Any = head.m
    example: dict[str, Tensor] = {}
    for level, (grid, convolution) in enumerate(zip(grids, convolutions, strict=True)):
        example[f"features_{level}"] = torch.zeros(batch_size, convolution.in_channels, *grid)
        example[f"weight_{level}"] = torch.zeros_like(convolution.weight, device="cpu")
        example[f"bias_{level}"] = torch.zeros_like(convolution.bias, device="cpu")
    return example

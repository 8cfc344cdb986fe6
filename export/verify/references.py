"""Losses with the original's dynamic shapes, by which artifacts are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exportloss.eager import ComputeLoss
from exportloss.export.detector.losses import make_loss
from exportloss.loss.output import LossOutput
from exportloss.runtime.artifact.manifest import Manifest

__all__ = ["finite_loss", "reference_loss"]


class _Yolov5(nn.Module):
    """`ComputeLoss` with the arguments and results that every loss has."""

    def __init__(self, manifest: Manifest) -> None:
        super().__init__()
        settings: Any = manifest.loss
        described = torch.tensor(manifest.anchors), manifest.strides, manifest.num_classes
        self._loss = ComputeLoss.from_config(*described, settings)

    def forward(
        self, predictions: Sequence[Tensor], targets: Tensor, state: Mapping[str, Tensor]
    ) -> LossOutput:
        self._loss.balance = state["balance"].tolist()
        loss, items = self._loss(predictions, targets)
        # In float64, as the original holds it.
        balance = torch.tensor(self._loss.balance, dtype=torch.float64)
        return LossOutput(loss, items, {"balance": balance})


def _own_reference(manifest: Manifest) -> nn.Module:
    loss: Any = finite_loss(manifest)
    reference: nn.Module = loss.reference()
    return reference


_REFERENCES: Mapping[str, Callable[[Manifest], nn.Module]] = {
    "yolov5": _Yolov5,
    "task-aligned": _own_reference,
}


def reference_loss(manifest: Manifest) -> nn.Module:
    """Return the loss of a manifest with dynamic shapes, called as a `DetectionLoss`."""
    return _REFERENCES[manifest.loss.kind](manifest)


def finite_loss(manifest: Manifest) -> nn.Module:
    """Return the static loss of a manifest, which is finite where the reference may not be."""
    loss: Any = make_loss(
        manifest.loss,
        strides=manifest.strides,
        num_classes=manifest.num_classes,
        anchors=manifest.anchors,
    )
    static: nn.Module = loss
    return static

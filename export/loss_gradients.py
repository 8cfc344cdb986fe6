"""The loss with its gradients as a graph, for pipelines that run the network elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import Tensor

from exportloss.export.aten_to_onnx import to_onnx
from exportloss.loss import YoloLoss

__all__ = ["loss_with_gradients"]


def loss_with_gradients(
    loss: YoloLoss, shapes: Sequence[Sequence[int]], *, max_targets: int
) -> ir.Model:
    """Write the loss and its gradient with respect to the predictions in standard operators.

    Inputs `predictions_0`, ..., `targets` (max_targets, 6) and `balance` (nl,); outputs `loss`,
    `items` (3,), `new_balance` (nl,) and `gradient_0`, ..., shaped as the predictions.

    Args:
        loss: the loss to export.
        shapes: (B, na, H, W, 5 + nc) of each level's predictions, from fine to coarse.
        max_targets: target rows in a batch, >= 1.
    """
    example = {
        **{f"predictions_{i}": torch.zeros(*shape) for i, shape in enumerate(shapes)},
        "targets": torch.zeros(max_targets, 6),
        "balance": loss.initial_balance,
    }

    def compute(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        levels = [inputs[f"predictions_{i}"].detach().requires_grad_() for i in range(len(shapes))]
        value, items, balance = loss(levels, inputs["targets"], inputs["balance"])
        gradients = torch.autograd.grad(value, levels)
        return {
            "loss": value.detach(),
            "items": items,
            "new_balance": balance,
            **{f"gradient_{i}": gradient for i, gradient in enumerate(gradients)},
        }

    return to_onnx(compute, example, name="loss", modules={"loss": loss})

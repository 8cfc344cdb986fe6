"""Freezing of layers: their weights and BatchNorm statistics stay as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from exportloss.errors import ConfigError
from exportloss.models.protocol import DetectorModel

__all__ = ["FrozenBatchNorm2d", "freeze"]


class FrozenBatchNorm2d(nn.Module):
    """A BatchNorm2d that stays in evaluation mode, with the same parameter and buffer names.

    It computes a product and a sum, not a BatchNormalization, because ONNX Runtime's training
    switches every BatchNormalization in a graph to batch statistics.

    Args:
        norm: Layer to replace, with an affine part and running statistics; its tensors are shared,
            not copied.
        train_bias: Whether the shift stays as it is, trained or not; everything else is frozen.

    Raises:
        ConfigError: `norm` lacks the affine part or the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d, *, train_bias: bool = False) -> None:
        super().__init__()
        if not norm.affine or norm.running_mean is None or norm.running_var is None:
            raise ConfigError(
                f"cannot freeze {norm}; expected affine=True and track_running_stats=True"
            )
        self.weight = norm.weight.requires_grad_(False)
        self.bias = norm.bias if train_bias else norm.bias.requires_grad_(False)
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.eps = norm.eps
        self.training = norm.training

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (B, C, H, W), by the running statistics; the shape stays."""
        scale = self.weight / torch.sqrt(self.running_var + self.eps)  # (C,)
        shift = self.bias - self.running_mean * scale
        return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)

    def extra_repr(self) -> str:
        """Show the number of channels and eps, as BatchNorm2d does."""
        return f"{self.weight.numel()}, eps={self.eps}"


def freeze(model: DetectorModel, layers: int | Sequence[int]) -> None:
    """Freeze layers of a detector in place, as YOLOv5's `--freeze` chooses them.

    Their parameters get `requires_grad=False`. Unlike in YOLOv5, their BatchNorm layers also keep
    their statistics: each becomes a `FrozenBatchNorm2d`. Names in the state dict stay the same.
    Layers that are already frozen stay frozen.

    Args:
        model: Detector; freeze its layers before building an optimizer over its parameters.
        layers: Layers to freeze. One int n, alone or in a sequence, means the layers 0 to n - 1 (10
            is the P5 backbone, 0 no layer); several ints are indices in `model.layers()`.

    Raises:
        ConfigError: an index is outside the model, or no parameter would be left to train. The
            model is then unchanged.
    """
    own = model.layers()
    frozen = [own[index] for index in _indices(layers, len(own))]
    kept = {id(parameter) for layer in frozen for parameter in layer.parameters()}
    if not any(p.requires_grad and id(p) not in kept for p in model.parameters()):
        name = getattr(model, "name", type(model).__name__)
        raise ConfigError(
            f"freeze {layers!r} leaves no parameter of {name} to train; freeze fewer of its "
            f"{len(own)} layers"
        )
    for layer in frozen:
        layer.requires_grad_(False)
    _replace_norms(model, {module for layer in frozen for module in layer.modules()})


def _indices(layers: int | Sequence[int], count: int) -> list[int]:
    given = [layers] if isinstance(layers, int) else list(layers)
    # A single n is a number of layers, so n = count is in range; `freeze` then refuses it because
    # nothing is left to train.
    limit = count if len(given) == 1 else count - 1
    for value in given:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= limit:
            raise ConfigError(
                f"freeze got {value!r} in {layers!r}; expected a number of layers in 0..{count}, "
                f"or several layer indices in 0..{count - 1}"
            )
    return list(range(given[0])) if len(given) == 1 else given


def _replace_norms(model: DetectorModel, frozen: set[nn.Module]) -> None:
    """Replace each BatchNorm among the frozen modules, wherever it stands; it may be a layer."""
    for owner in list(model.modules()):
        for name, child in owner.named_children():
            if isinstance(child, nn.BatchNorm2d) and child in frozen:
                setattr(owner, name, FrozenBatchNorm2d(child))

"""Interface of a detector that can be exported with a loss and trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn

__all__ = ["DetectorModel"]


class DetectorModel(Protocol):
    """A detector: a module with these methods, such as `YoloV5` or one of your own.

    Exports need `forward` only. Without `decode` nothing can be validated or exported for
    inference, without `layers` nothing frozen.
    """

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per cell, (nl,), fine to coarse."""

    @property
    def num_classes(self) -> int:
        """Number of classes, nc."""

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Compute the raw maps that the loss reads.

        Args:
            images: (B, 3, H, W), floating point in [0, 1].

        Returns:
            One map per level, fine to coarse, in the same form in training and evaluation mode.
        """

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Return the boxes of raw maps.

        Returns:
            (B, N, 5 + nc): centre x, centre y, width and height in input pixels, objectness and
            class probabilities in [0, 1]. The objectness is 1 for a detector that predicts none.
        """

    def layers(self) -> Sequence[nn.Module]:
        """Return the layers that `freeze` counts, from the input to the head."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters, as `nn.Module` does."""

    def modules(self) -> Iterator[nn.Module]:
        """Return all modules, as `nn.Module` does."""

"""Interface of a detection loss, by which every exporter trains a detector with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from exportloss.loss.output import LossOutput
from exportloss.loss_kinds import LossSettings

__all__ = ["DetectionLoss"]


class DetectionLoss(Protocol):
    """A loss over a detector's raw maps and padded target rows: a module with fixed shapes."""

    @property
    def kind(self) -> str:
        """Name of the loss's row in `exportloss.loss_kinds.LOSS_KINDS`."""

    @property
    def config(self) -> LossSettings:
        """Settings, which a manifest holds."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the loss terms, in the order of `LossOutput.terms`."""

    @property
    def initial_state(self) -> Mapping[str, Tensor]:
        """State before the first step by name; empty if the loss has none."""

    @property
    def settings(self) -> Mapping[str, float]:
        """Scalars that may change from step to step, with their defaults; empty if there are none.

        No exporter has inputs for them yet: graphs compute with the defaults.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes."""

    @property
    def strides(self) -> Any:
        """Input pixels per cell, (nl,), fine to coarse: a tensor or numbers."""

    def as_pairwise(self) -> DetectionLoss:
        """Return the form for GPUs, whose writes have no order; itself if it has one form only."""

    def __call__(
        self,
        predictions: Sequence[Tensor],
        targets: Tensor,
        state: Mapping[str, Tensor],
    ) -> LossOutput:
        """Compute the loss of a batch.

        Args:
            predictions: Raw maps of the detector, one per level, fine to coarse.
            targets: (max_targets, 6) from `pad_targets`.
            state: State by name: `initial_state` in the first step, then that of the last output.
        """

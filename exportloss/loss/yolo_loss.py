"""The YOLOv5 training loss with fixed shapes, which can be traced, exported and compiled."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from exportloss.balance import MAX_LEVELS, initial_balance
from exportloss.bounds import at_least
from exportloss.config import LossConfig
from exportloss.errors import ConfigError
from exportloss.loss.boxes import ciou_of_logits
from exportloss.loss.class_entropy import class_entropy
from exportloss.loss.criteria import make_criterion
from exportloss.loss.graph_ops import total
from exportloss.loss.levels import OBJECTNESS, HeadOutput, Level, PermutedMap
from exportloss.loss.matching import Slots, match
from exportloss.loss.objectness import objectness_targets
from exportloss.loss.output import LossOutput
from exportloss.loss.shared_cells import SharedCells
from exportloss.loss_kinds import LOSS_KINDS

__all__ = ["Result", "YoloLoss"]

# Without a balance two tensors, with one three; for a state, what every loss returns.
Result = LossOutput | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]

_REFERENCE_STRIDE = 16  # autobalance keeps this level's weight at 1
_SMALLEST_OBJECTNESS = 1e-12  # keeps autobalance finite when a level's loss underflows


class YoloLoss(nn.Module):
    """YOLOv5's loss (v6.2, v7.0) over padded targets.

    Values and gradients equal the original's, with a fixed number of target rows, masks instead of
    filters and no data-dependent control flow. If several matches claim a cell, the winner is the
    one of the original on one thread, on every device and for every thread count. Loss and
    gradients are finite for every finite input.

    Args:
        anchors: (nl, na, 2) width and height in input pixels, nl in 2 to 5, fine to coarse.
        strides: (nl,) input pixels per cell.
        num_classes: Number of classes, >= 1; with one class there is no class term.
        config: Options and gains; default `LossConfig()`, whose gains are not scaled.
        pairwise: Whether to combine the values of matches that share a cell before they are
            written, instead of with a reducing scatter: results on a GPU are then reproducible
            bit for bit, and TensorRT accepts the graphs. Slower on a CPU.

    Raises:
        ConfigError: anchors, strides and config do not fit together.
    """

    kind = LossConfig.kind
    terms = LOSS_KINDS[kind].terms

    anchors: Tensor  # (nl, na, 2), in cells
    strides: Tensor  # (nl,)
    initial_balance: Tensor  # (nl,)

    def __init__(
        self,
        anchors: Tensor | Sequence[Sequence[Sequence[float]]],
        strides: Tensor | Sequence[float],
        num_classes: int,
        config: LossConfig | None = None,
        *,
        pairwise: bool = False,
    ) -> None:
        super().__init__()
        self.config = config or LossConfig()
        self.pairwise = pairwise
        self.num_classes = num_classes
        anchors_px = torch.as_tensor(anchors, dtype=torch.float32).detach()
        pixels = torch.as_tensor(strides, dtype=torch.float32, device=anchors_px.device).detach()
        levels = _check_levels(anchors_px, pixels, num_classes)
        if self.config.autobalance and _REFERENCE_STRIDE not in pixels.tolist():
            raise ConfigError(
                f"autobalance needs a level of stride {_REFERENCE_STRIDE}, "
                f"got strides {pixels.tolist()}; turn autobalance off"
            )
        self._reference_level = (
            pixels.tolist().index(_REFERENCE_STRIDE) if self.config.autobalance else 0
        )
        balance = torch.tensor(initial_balance(levels), device=anchors_px.device)
        self.register_buffer("anchors", anchors_px / pixels[:, None, None], persistent=False)
        self.register_buffer("strides", pixels, persistent=False)
        self.register_buffer("initial_balance", balance, persistent=False)
        self._score_class = make_criterion(self.config, pos_weight=self.config.cls_pw)
        self._score_objectness = make_criterion(self.config, pos_weight=self.config.obj_pw)

    @property
    def initial_state(self) -> dict[str, Tensor]:
        """State before the first step: the objectness weights `balance`, (nl,)."""
        return {"balance": self.initial_balance}

    @property
    def settings(self) -> dict[str, float]:
        """Scalars that may change from step to step: none."""
        return {}

    def as_pairwise(self) -> YoloLoss:
        """Return the same loss with `pairwise` on."""
        if self.pairwise:
            return self
        loss = copy.copy(self)
        loss.pairwise = True
        return loss

    def forward(
        self,
        predictions: Sequence[Tensor],
        targets: Tensor,
        balance: Tensor | Mapping[str, Tensor] | None = None,
    ) -> Result:
        """Compute the loss of a batch.

        Args:
            predictions: Raw logits of x, y, w, h, objectness and classes, one map per level, fine
                to coarse: (B, na, H, W, 5 + nc), or (B, na * (5 + nc), H, W) as the head's
                convolution returns them, which saves the permuted copy.
            targets: (max_targets, 6) from `pad_targets`.
            balance: (nl,) objectness weights: `initial_balance` in the first step, then those
                that the previous step returned. Required with `autobalance`. As a mapping, the
                state of the `DetectionLoss` protocol, whose result is then returned.

        Returns:
            loss: Scalar, (box + objectness + class) * B.
            items: (3,) loss terms box, objectness and class, with gains, not multiplied by B,
                detached.
            balance: (nl,) objectness weights for the next step; only if `balance` was given.

        Raises:
            ConfigError: the number or the shapes of the maps are wrong, or `balance` is missing.
        """
        self._check(predictions)
        na = self.anchors.shape[1]
        levels: list[Level] = [
            PermutedMap(level) if level.ndim == 5 else HeadOutput(level, na)
            for level in predictions
        ]
        return self.of_levels(levels, targets, balance)

    def of_levels(
        self,
        levels: Sequence[Level],
        targets: Tensor,
        balance: Tensor | Mapping[str, Tensor] | None = None,
    ) -> Result:
        """Compute the loss from readers of the predictions; otherwise as `forward`.

        Args:
            levels: One reader per level, fine to coarse, such as `forward` makes from maps and
                `SparseHeadLoss` from features.
            targets: Target rows, as for `forward`.
            balance: Objectness weights, as for `forward`.
        """
        if isinstance(balance, Mapping):
            result: Any = self.of_levels(levels, targets, balance["balance"])
            loss, items, after = result
            return LossOutput(loss, items, {"balance": after})
        if self.config.autobalance and balance is None:
            raise ConfigError(
                "autobalance is on, got no balance; pass balance: `initial_balance` first, then "
                "what the last call returned"
            )
        weights = self.initial_balance if balance is None else balance
        batch_size = levels[0].batch_size
        grids = [level.grid for level in levels]
        slots = match(
            targets,
            self.anchors,
            batch_size=batch_size,
            grids=grids,
            num_classes=self.num_classes,
            anchor_t=self.config.anchor_t,
        )
        shared = SharedCells.of(slots, grids, pairwise=self.pairwise, batch_size=batch_size)
        # The loss is computed in float32 or better, whatever the network's type.
        dtype = torch.promote_types(levels[0].dtype, torch.float32)
        read = [
            level.read(slots.image, cell, shared.of_level(i))
            for i, (level, cell) in enumerate(zip(levels, slots.cell.unbind(), strict=True))
        ]
        rows = torch.stack([rows for rows, _ in read]).to(dtype)  # (nl, na, S, M, 5 + nc)
        boxes, objectness_rows, classes = self._split(rows, shared)

        count = slots.weight.sum(dim=(1, 2, 3)).clamp(min=1)  # (nl,), padding excluded
        ciou = self._ciou(boxes, slots)  # (nl, na, S, M)
        box = total((slots.weight * (1 - ciou)).sum(dim=(1, 2, 3)) / count) * self.config.box
        category = self._category(classes, slots, count, shared) * self.config.cls
        wanted = objectness_targets(
            ciou.detach(),
            matched=slots.weight > 0,
            order=slots.order,
            shared=shared,
            config=self.config,
        )
        maps = [logits.to(dtype) for _, logits in read]
        objectness = self._objectness(maps, objectness_rows, wanted)  # (nl,)
        weighted = total(objectness * weights) * self.config.obj
        loss = (box + weighted + category).squeeze(0) * batch_size
        items = torch.cat((box, weighted, category)).detach()
        if balance is None:
            return loss, items
        return loss, items, self._next_balance(balance, objectness.detach())

    def _split(self, rows: Tensor, shared: SharedCells) -> tuple[Tensor, Tensor, Tensor]:
        """Split rows into logits of boxes, of objectness and of classes.

        Returns:
            (4, nl, na, S, M), (nl, na, S, M) and (nl, na, S, M, nc).
        """
        classes = OBJECTNESS + 1
        if torch.compiler.is_exporting():  # ONNX Runtime's gradient of Split needs all parts used
            head, categories = rows[..., :classes], rows[..., classes:]
        else:
            head, categories = torch.split(rows, [classes, self.num_classes], dim=-1)
        # As a matrix: ONNX Runtime moves a Transpose of slots down through all that follows.
        columns = shared.read(head).reshape(-1, classes).t().reshape(classes, *head.shape[:-1])
        return columns[:OBJECTNESS], columns[OBJECTNESS], categories

    def _ciou(self, logits: Tensor, slots: Slots) -> Tensor:
        """Compute each slot's complete IoU from logits (4, nl, na, S, M).  # (nl, na, S, M)"""
        # The logits of slots without a match are replaced before any division: a NaN times a
        # weight of 0 would be NaN, in the backward pass too.
        return ciou_of_logits(
            torch.where(slots.weight > 0, logits, 0.0),
            self.anchors.permute(2, 0, 1)[..., None, None],  # (2, nl, na, 1, 1)
            centre=slots.centre,
            side=slots.side,
        )

    def _category(self, logits: Tensor, slots: Slots, count: Tensor, shared: SharedCells) -> Tensor:
        """Compute the class term, (1,), averaged over the matches, from (nl, na, S, M, nc)."""
        if self.num_classes == 1:
            return logits.new_zeros(1)
        smoothing = self.config.label_smoothing
        plain = self.config.effective_criterion == "bce" and shared.same is None
        if plain and not torch.compiler.is_exporting():
            scores = class_entropy(
                logits,
                slots.category,
                shared,
                pos_weight=self.config.cls_pw,
                smoothing=smoothing,
            )
        else:
            logits = shared.read(logits)
            wanted = _class_targets(slots.category, self.num_classes, smoothing).to(logits.dtype)
            scores = self._score_class(logits, wanted.expand_as(logits)).sum(dim=4)
        by_level = (slots.weight * scores).sum(dim=(1, 2, 3))  # (nl,)
        return total(by_level / (count * self.num_classes))

    def _objectness(self, maps: Sequence[Tensor], rows: Tensor, wanted: Tensor) -> Tensor:
        """Compute the mean objectness criterion over all boxes, per level.  # (nl,)

        All boxes are scored against 0, and those with another target once more.

        Args:
            maps: Logits of all boxes, one vector per level.
            rows: (nl, na, S, M) logits of the slots' boxes.
            wanted: (nl, na, S, M) targets, 0 for all but one slot of a box.
        """
        criterion = self._score_objectness
        # A logit that is not finite counts only where it is matched.
        rows = torch.where(wanted > 0, rows, 0.0)
        excess = criterion.excess(rows, wanted).sum(dim=(1, 2, 3))  # (nl,)
        background = torch.cat([criterion.background(logits) for logits in maps])
        sizes = torch.cat([wanted.new_full((1,), logits.numel()) for logits in maps])
        return (background + excess) / sizes

    def _next_balance(self, balance: Tensor, objectness: Tensor) -> Tensor:
        if not self.config.autobalance:
            return balance.clone()
        inverse = 0.0001 / objectness.clamp(min=_SMALLEST_OBJECTNESS)
        updated = balance * 0.9999 + inverse
        reference = self._reference_level
        return updated / updated[reference : reference + 1]

    def _check(self, predictions: Sequence[Tensor]) -> None:
        """Check the number and shapes of the maps; a traced graph contains none of it."""
        levels, na = self.anchors.shape[:2]
        outputs = 5 + self.num_classes
        if len(predictions) != levels:
            raise ConfigError(f"got {len(predictions)} prediction maps, expected {levels}")
        for i, level in enumerate(predictions):
            permuted = level.ndim == 5 and (level.shape[1], level.shape[4]) == (na, outputs)
            if not permuted and (level.ndim != 4 or level.shape[1] != na * outputs):
                raise ConfigError(
                    f"prediction map {i} has shape {tuple(level.shape)}, expected "
                    f"(B, {na}, H, W, {outputs}), or (B, {na * outputs}, H, W)"
                )


def _class_targets(category: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Return smoothed one-hot rows: 1 - eps / 2 at the class, eps / 2 elsewhere.  # (M, nc)"""
    is_class = torch.arange(num_classes, device=category.device) == category[:, None]
    return torch.where(is_class, 1 - smoothing / 2, smoothing / 2)


def _check_levels(anchors_px: Tensor, strides: Tensor, num_classes: int) -> int:
    if anchors_px.ndim != 3 or anchors_px.shape[2] != 2:
        raise ConfigError(f"anchors have shape {tuple(anchors_px.shape)}, expected (nl, na, 2)")
    levels = anchors_px.shape[0]
    if not 2 <= levels <= MAX_LEVELS:
        raise ConfigError(f"got anchors for {levels} levels, expected 2 to {MAX_LEVELS}")
    if strides.shape != (levels,):
        raise ConfigError(f"strides have shape {tuple(strides.shape)}, expected ({levels},)")
    if not (anchors_px > 0).all() or not (strides > 0).all():
        raise ConfigError("anchors and strides must be above 0, in input pixels")
    at_least(1, num_classes=num_classes)
    return levels

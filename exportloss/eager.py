"""The YOLOv5 loss (v6.2, v7.0) with dynamic shapes, under YOLOv5's own names.

It is the reference for `exportloss.YoloLoss` and a drop-in replacement in training scripts: it
behaves as the original does, NaN included, and adds no checks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from exportloss.config import LossConfig
from exportloss.errors import ConfigError
from exportloss.loss.eager_criteria import (
    BCEBlurWithLogitsLoss,
    FocalLoss,
    QFocalLoss,
    make_criterion,
)

__all__ = [
    "BCEBlurWithLogitsLoss",
    "ComputeLoss",
    "FocalLoss",
    "QFocalLoss",
    "bbox_iou",
    "smooth_BCE",
]

Indices = tuple[Tensor, Tensor, Tensor, Tensor]

# Offsets subtracted from a centre before it is truncated to a cell: for the cell itself, then for
# its left, top, right and bottom neighbour. The order decides which match wins a shared cell.
_OFFSETS = ((0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (-0.5, 0.0), (0.0, -0.5))


def smooth_BCE(eps: float = 0.1) -> tuple[float, float]:
    """Return the smoothed targets of a positive and a negative class, `(1 - eps / 2, eps / 2)`."""
    return 1.0 - 0.5 * eps, 0.5 * eps


def bbox_iou(  # noqa: PLR0917 - the original's signature
    box1: Tensor,
    box2: Tensor,
    xywh: bool = True,
    GIoU: bool = False,
    DIoU: bool = False,
    CIoU: bool = False,
    eps: float = 1e-7,
) -> Tensor:
    """Compute the IoU of boxes, or one of its generalisations, element by element.

    Args:
        box1: (..., 4) boxes, for example (1, 4) against (n, 4).
        box2: (..., 4) boxes, broadcastable with `box1` and in the same units.
        xywh: Whether boxes are centre and size; otherwise opposite corners x1, y1, x2, y2.
        GIoU: Whether to return the generalised IoU (arXiv 1902.09630), in (-1, 1].
        DIoU: Whether to return the distance IoU (arXiv 1911.08287, 3.1), in (-1, 1].
        CIoU: Whether to return the complete IoU (arXiv 1911.08287, 3.2), its trade-off weight
            detached. A box of zero height gives NaN, in the value or in the gradient.
        eps: Small number added to every denominator.

    Returns:
        (..., 1). If several flags are set, CIoU takes precedence over DIoU, and DIoU over GIoU.
    """
    low1, high1, size1 = _corners(box1, xywh)  # each (..., 2)
    low2, high2, size2 = _corners(box2, xywh)
    overlap = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0)
    inter = _area(overlap)  # (..., 1)
    union = _area(size1) + _area(size2) - inter + eps
    iou = inter / union
    if not (GIoU or DIoU or CIoU):
        return iou

    hull = torch.maximum(high1, high2) - torch.minimum(low1, low2)  # (..., 2)
    if not (DIoU or CIoU):
        area = _area(hull) + eps
        return iou - (area - union) / area

    diagonal = hull.square().sum(-1, keepdim=True) + eps
    distance = ((low2 + high2 - low1 - high1) / 2).square().sum(-1, keepdim=True)
    if not CIoU:
        return iou - distance / diagonal

    angle1, angle2 = (torch.atan(s[..., :1] / s[..., 1:]) for s in (size1, size2))
    shape = (4 / math.pi**2) * (angle2 - angle1).square()
    with torch.no_grad():
        trade_off = shape / (shape - iou + (1 + eps))
    return iou - (distance / diagonal + shape * trade_off)


def _corners(box: Tensor, xywh: bool) -> tuple[Tensor, Tensor, Tensor]:
    first, second = box.chunk(2, -1)
    if xywh:
        return first - second / 2, first + second / 2, second
    return first, second, second - first


def _area(size: Tensor) -> Tensor:
    width, height = size.chunk(2, -1)
    return width * height


class ComputeLoss:
    """The training loss of a YOLOv5 model: box (CIoU), objectness and class terms.

    If several matches share a cell, its objectness target is the IoU of the last match, or with
    `sort_obj_iou` the largest IoU. "Last" is defined on one CPU thread only: the cells are written
    with a non-accumulating `index_put_`, for which torch leaves the order of duplicates open. With
    more threads, or on a GPU, the loss may differ between runs; that of `exportloss.YoloLoss` does
    not.

    Attributes:
        sort_obj_iou: Whether the largest IoU wins a shared cell.
        gr: Fraction of the IoU in the objectness target, in [0, 1].
        balance: Objectness weights, one per level (there may be more entries than levels); updated
            by every call with `autobalance`.
        ssi: Index of the level of stride 16, whose weight autobalance keeps at 1.
        hyp: YOLOv5's hyperparameters.
        anchors: (nl, na, 2) width and height in cells.
        na, nc, nl: Numbers of anchors per level, classes, and levels.
        cp, cn: Targets of a present and an absent class.
        BCEcls, BCEobj: Criteria of the class and the objectness term.
    """

    sort_obj_iou: bool = False

    def __init__(self, model: Any, autobalance: bool = False) -> None:
        """Read the settings of a YOLOv5 model, bare or wrapped in (Distributed)DataParallel.

        Args:
            model: Model with `hyp`, a mapping with `box obj cls cls_pw obj_pw anchor_t fl_gamma`
                and optionally `label_smoothing`. The last entry of its `model` is the head, with
                `nl na nc`, `anchors` (nl, na, 2) in cells and `stride` (nl,) in pixels.
            autobalance: Whether to update `balance` in every call; requires a level of stride 16.
        """
        inner = getattr(model, "module", model)
        head = inner.model[-1]
        # Training scripts set `hyp` after wrapping the model, or before.
        self.hyp: dict[str, Any] = model.hyp if hasattr(model, "hyp") else inner.hyp
        self.anchors: Tensor = head.anchors
        self.device: torch.device = self.anchors.device
        self.na, self.nc, self.nl = int(head.na), int(head.nc), int(head.nl)
        self.autobalance = autobalance
        self.ssi = [float(s) for s in head.stride].index(16) if autobalance else 0
        self.balance = [4.0, 1.0, 0.4] if self.nl == 3 else [4.0, 1.0, 0.25, 0.06, 0.02]
        self.gr = 1.0
        self.cp, self.cn = smooth_BCE(self.hyp.get("label_smoothing", 0.0))
        self._set_criteria(LossConfig(fl_gamma=self.hyp["fl_gamma"]))

    @classmethod
    def from_config(
        cls, anchors: Any, strides: Any, num_classes: int, config: LossConfig
    ) -> ComputeLoss:
        """Make the loss from a `LossConfig`; all of its options apply.

        Args:
            anchors: (nl, na, 2) width and height in input pixels, > 0, on the device of the
                predictions.
            strides: (nl,) input pixels per cell.
            num_classes: Number of classes, >= 1.
            config: Options and gains.

        Raises:
            ConfigError: autobalance is on and no level has stride 16.
        """
        pixels = torch.as_tensor(anchors, dtype=torch.float32)
        stride = torch.as_tensor(strides, dtype=torch.float32, device=pixels.device)
        if config.autobalance and 16 not in stride.tolist():
            raise ConfigError(
                f"autobalance needs a level of stride 16, got strides {stride.tolist()}; "
                "set autobalance to False"
            )
        nl, na, _ = pixels.shape
        grid = pixels / stride[:, None, None]
        head = SimpleNamespace(nl=nl, na=na, nc=num_classes, anchors=grid, stride=stride)
        model = SimpleNamespace(hyp=dataclasses.asdict(config), model=[head])
        loss = cls(model, autobalance=config.autobalance)
        loss.gr = config.gr
        loss.sort_obj_iou = config.sort_obj_iou
        loss._set_criteria(config)
        return loss

    def _set_criteria(self, config: LossConfig) -> None:
        self.BCEcls, self.BCEobj = (
            make_criterion(config, torch.tensor([self.hyp[key]], device=self.device))
            for key in ("cls_pw", "obj_pw")
        )

    def __call__(self, p: Sequence[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the loss of a batch.

        Args:
            p: Raw predictions (B, na, H, W, 5 + nc), one map per level.
            targets: (n, 6) rows of image, class, x, y, w, h; boxes as fractions of the image.

        Returns:
            The loss (1,), multiplied by the batch size, and its box, objectness and class terms
            (3,), detached, with gains, before the multiplication.
        """
        # Half-precision terms are summed in float32.
        dtype = torch.promote_types(p[0].dtype, torch.float32)
        lbox, lobj, lcls = (torch.zeros(1, dtype=dtype, device=p[0].device) for _ in range(3))
        tcls, tbox, indices, anch = self.build_targets(p, targets)
        for i, pi in enumerate(p):
            b, a, gj, gi = indices[i]
            tobj = torch.zeros(pi.shape[:4], dtype=pi.dtype, device=pi.device)
            if n := len(b):
                pxy, pwh, _, pcls = pi[b, a, gj, gi].split_with_sizes((2, 2, 1, self.nc), 1)
                pbox = torch.cat((pxy.sigmoid() * 2 - 0.5, (pwh.sigmoid() * 2) ** 2 * anch[i]), 1)
                iou = bbox_iou(pbox, tbox[i], CIoU=True).squeeze(-1)  # (n,)
                lbox += (1 - iou).mean()

                score = iou.detach().clamp(0).type(tobj.dtype)
                if self.sort_obj_iou:
                    order = score.argsort()
                    b, a, gj, gi, score = (v[order] for v in (b, a, gj, gi, score))
                if self.gr < 1:
                    score = (1 - self.gr) + self.gr * score
                tobj[b, a, gj, gi] = score

                if self.nc > 1:
                    t = torch.full_like(pcls, self.cn)
                    t[torch.arange(n, device=t.device), tcls[i]] = self.cp
                    lcls += self.BCEcls(pcls, t)

            obji = self.BCEobj(pi[..., 4], tobj)
            lobj += obji * self.balance[i]
            if self.autobalance:
                self.balance[i] = self.balance[i] * 0.9999 + 0.0001 / obji.detach().item()
        if self.autobalance:
            self.balance = [weight / self.balance[self.ssi] for weight in self.balance]

        lbox *= self.hyp["box"]
        lobj *= self.hyp["obj"]
        lcls *= self.hyp["cls"]
        return (lbox + lobj + lcls) * p[0].shape[0], torch.cat((lbox, lobj, lcls)).detach()

    def build_targets(
        self, p: Sequence[Tensor], targets: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Indices], list[Tensor]]:
        """Match target rows with anchors and cells; of the predictions, only the shapes are used.

        Args:
            p: Raw predictions, as in `__call__`.
            targets: Target rows, as in `__call__`.

        Returns:
            Four lists with one entry per level, over its n matches in the order neighbour, anchor,
            target: classes (n,); boxes (n, 4), centre relative to the cell and size, in cells;
            indices (image, anchor, row, column), each (n,); anchors (n, 2) in cells.
        """
        tcls, tbox, indices, anch = [], [], [], []
        image, category = targets[:, :2].long().unbind(1)
        offsets = targets.new_tensor(_OFFSETS)  # (5, 2)
        for pi, anchors in zip(p, self.anchors, strict=True):
            height, width = pi.shape[2:4]
            grid = targets.new_tensor((width, height))
            gxy, gwh = targets[:, 2:4] * grid, targets[:, 4:6] * grid  # (T, 2)

            ratio = gwh / anchors[:, None]  # (na, T, 2)
            fits = torch.maximum(ratio, 1 / ratio).amax(2) < self.hyp["anchor_t"]
            a, t = fits.nonzero(as_tuple=True)

            near = (gxy % 1 < 0.5) & (gxy > 1)
            far = ((grid - gxy) % 1 < 0.5) & (grid - gxy > 1)
            chosen = torch.cat((torch.ones_like(near[:, :1]), near, far), 1)  # (T, 5)
            slot, row = chosen[t].T.nonzero(as_tuple=True)
            a, t = a[row], t[row]

            # Truncation moves centres that the offset pushed below 0 back into cell 0. The clamp
            # precedes the box target, whose centre may thus lie outside the usual range.
            cell = (gxy[t] - offsets[slot]).long()
            gi, gj = cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)
            tcls.append(category[t])
            tbox.append(torch.cat((gxy[t] - torch.stack((gi, gj), 1), gwh[t]), 1))
            indices.append((image[t], a, gj, gi))
            anch.append(anchors[a])
        return tcls, tbox, indices, anch

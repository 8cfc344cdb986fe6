"""The YOLOv5 loss (v6.2, v7.0) with its dynamic shapes, under the names its users know.

It is the reference that `exportloss.YoloLoss` is held against, and a drop-in for a training script:
it behaves as the original does, NaN included, and checks nothing that the original does not.
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

# What is subtracted from a centre before it is truncated to a cell: the cell itself, then its
# left, top, right and bottom neighbour. The order decides who wins a shared cell.
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
    """Overlap of boxes, element by element: IoU or one of its generalisations.

    Args:
        box1: (..., 4), for example (1, 4) against (n, 4).
        box2: (..., 4), broadcastable with `box1`; in the same units.
        xywh: boxes are centre and size; otherwise two opposite corners, x1 y1 x2 y2.
        GIoU: generalised IoU (arXiv 1902.09630), in (-1, 1].
        DIoU: distance IoU (arXiv 1911.08287, 3.1), in (-1, 1].
        CIoU: complete IoU (arXiv 1911.08287, 3.2), its trade-off weight detached. A box of
            zero height gives NaN, in its value or in its gradient.
        eps: added to every denominator.

    Returns:
        (..., 1). Where several flags are set CIoU goes before DIoU before GIoU.
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

    Where several matches share a cell, objectness takes the IoU of the last row, or with
    `sort_obj_iou` the largest. "Last" holds on one CPU thread only: the cells are written with a
    non-accumulating `index_put_`, and torch leaves the order of duplicates open. With more threads,
    or on a GPU, the loss may differ from run to run; `exportloss.YoloLoss` does not.

    Attributes:
        sort_obj_iou: the largest IoU wins a shared cell.
        gr: share of the IoU in the objectness target, in [0, 1].
        balance: objectness weight of each level (may hold more entries than there are levels);
            changes after every call with `autobalance`.
        ssi: index of the level of stride 16, to which autobalance normalises.
        hyp: YOLOv5's hyperparameters.
        anchors: (nl, na, 2), width and height in grid units.
        na, nc, nl: anchors a level, classes, levels.
        cp, cn: targets of a present and an absent class.
        BCEcls, BCEobj: criteria of the class and the objectness term.
    """

    sort_obj_iou: bool = False

    def __init__(self, model: Any, autobalance: bool = False) -> None:
        """Read the settings off a YOLOv5 model, bare or wrapped in (Distributed)DataParallel.

        Args:
            model: has `hyp`, a mapping with `box obj cls cls_pw obj_pw anchor_t fl_gamma` and
                perhaps `label_smoothing`; the last entry of its `model` is the head, with
                `nl na nc`, `anchors` (nl, na, 2) in grid units and `stride` (nl,) in pixels.
            autobalance: update `balance` after every call; needs a level of stride 16.
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
        """Make the loss from a `LossConfig`, all of whose options it honours.

        Args:
            anchors: (nl, na, 2), width and height in input pixels, > 0; on the device where the
                predictions will be.
            strides: (nl,), input pixels a cell.
            num_classes: at least 1.
            config: the settings.

        Raises:
            ConfigError: autobalance without a level of stride 16.
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
        """Score a batch.

        Args:
            p: raw predictions of each level, (B, na, H, W, 5 + nc).
            targets: (n, 6), rows of image, class, x, y, w, h; boxes normalised to [0, 1].

        Returns:
            The loss, (1,), times the batch size; and its box, objectness and class items, (3,),
            detached, after their gains and before the batch size.
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
        """Match target rows to anchors and cells; predictions give the grids only.

        Args:
            p: as in `__call__`.
            targets: as in `__call__`.

        Returns:
            For each level, over its n matches (ordered by neighbour, then anchor, then target):
            classes (n,); boxes (n, 4), centre relative to the cell and size in grid units;
            indices (image, anchor, row, column), each (n,); anchors (n, 2) in grid units.
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

            # Truncation moves what the offset pushed below 0 back into cell 0; the clamp comes
            # before the box target, which therefore may reach past the usual range.
            cell = (gxy[t] - offsets[slot]).long()
            gi, gj = cell[:, 0].clamp(0, width - 1), cell[:, 1].clamp(0, height - 1)
            tcls.append(category[t])
            tbox.append(torch.cat((gxy[t] - torch.stack((gi, gj), 1), gwh[t]), 1))
            indices.append((image[t], a, gj, gi))
            anch.append(anchors[a])
        return tcls, tbox, indices, anch

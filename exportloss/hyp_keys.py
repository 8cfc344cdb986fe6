"""Keys of YOLOv5's hyperparameter files that do not belong to the loss.

`exportloss.runtime.training.hyp` defines their meaning, defaults and ranges. The names are listed
here so that `LossConfig` can tell a training key from a misspelt one.
"""

from __future__ import annotations

__all__ = ["TRAINING_KEYS", "UNUSED_KEYS"]

# `copy_paste` needs object outlines, `anchors` applies to YOLOv5's own anchor search, and the loss
# reads `iou_t` neither in YOLOv5 nor here.
UNUSED_KEYS = frozenset({"anchors", "copy_paste", "iou_t"})

_SCHEDULE = (
    *("lr0", "lrf", "momentum", "weight_decay"),
    *("warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
)
_AUGMENTATION = (
    *("hsv_h", "hsv_s", "hsv_v", "degrees", "translate", "scale", "shear", "perspective"),
    *("flipud", "fliplr", "mosaic", "mixup"),
)

TRAINING_KEYS = frozenset({*_SCHEDULE, *_AUGMENTATION, *UNUSED_KEYS})

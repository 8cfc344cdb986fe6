"""Keys of YOLOv5's hyperparameter files that do not belong to the loss.

`exportloss.runtime.training.hyp` defines their meaning, defaults and ranges. The names are listed
here so that the settings of a loss can tell a training key from a misspelt one.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from exportloss.errors import excerpt, listed

__all__ = ["TRAINING_KEYS", "UNUSED_KEYS", "unknown_keys"]

# Limits of a message: unknown keys it names, and characters per key.
_NAMED_KEYS, _LONGEST_KEY = 20, 60

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


def unknown_keys(unknown: Sequence[str], known: Sequence[str], *, kind: str) -> str:
    """Name keys that a loss does not know, each with the nearest one that it knows.

    Args:
        unknown: Keys, one or more.
        known: Keys of the loss.
        kind: Kind of the loss.
    """
    parts = []
    for key in unknown[:_NAMED_KEYS]:  # a hostile file may have millions
        near = difflib.get_close_matches(key[:_LONGEST_KEY], known, n=1)
        shown = repr(excerpt(key, _LONGEST_KEY))
        parts.append(f"{shown} (did you mean {near[0]!r}?)" if near else shown)
    parts += unknown[_NAMED_KEYS:]
    return f"{listed(parts, _NAMED_KEYS)}; the loss {kind} knows {', '.join(known)}"

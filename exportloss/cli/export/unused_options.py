"""Refusal of options of `exportloss export` that none of the chosen formats uses."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from exportloss.cli.terminal import say
from exportloss.errors import ConfigError

__all__ = ["USED_BY", "refuse_unused_options"]

_TRAINING = ("ort", "step")
_GRAPHS = (*_TRAINING, "loss")
# An option that is not here applies to every format, or is checked where it is read.
USED_BY: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("batch_size", "max_targets", "hyp", "label_smoothing"), _GRAPHS),
    "scale_gains": _GRAPHS,
    **dict.fromkeys(("optimizer", "freeze", "update", "ema", "head"), _TRAINING),
    **dict.fromkeys(("precision", "memory", "features"), ("step",)),
    **dict.fromkeys(("gradients", "layout", "tiers"), ("loss",)),
    "nms": ("onnx",),
}
_SWITCHES = ("gradients", "nms")  # False if not given; others are None
_ANY_NUMBER = "; a detector's ONNX file takes any number of images"


def refuse_unused_options(options: argparse.Namespace) -> None:
    """Check that each given option has an effect on one of the chosen formats.

    Args:
        options: Options as parsed, before anything is filled in.

    Raises:
        ConfigError: Names the first option without effect, and the formats that it applies to.
    """
    for name, able in USED_BY.items():
        said = getattr(options, name)
        is_said = bool(said) if name in _SWITCHES else said is not None
        if is_said and not set(able) & set(options.format):
            why = _ANY_NUMBER if name == "batch_size" and "onnx" in options.format else ""
            raise ConfigError(
                f"--{name.replace('_', '-')} applies to --format {' or '.join(able)}, got "
                f"--format {','.join(options.format)}{why}; leave the option out, or add a format"
            )
    # YOLOv5's commands give a size with every format, and weights alone are the same for all.
    if options.imgsz is not None and not {*_GRAPHS, "onnx"} & set(options.format):
        say(f"note: --imgsz has no effect on --format {','.join(options.format)}")

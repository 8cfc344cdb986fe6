"""Inputs and outputs of a loss alone, as its manifest implies them."""

from __future__ import annotations

from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.onnx_file import FLOAT, OnnxValue

__all__ = ["gradient_name", "loss_inputs", "loss_outputs"]


def loss_inputs(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the inputs of the loss: predictions, or features and the head's convolutions.

    The manifest does not give the number of channels of features: that size has a name instead.
    """
    height, width = manifest.image_size
    inputs: dict[str, OnnxValue] = {}
    for level, (anchors, stride) in enumerate(zip(manifest.anchors, manifest.strides, strict=True)):
        grid = height // int(stride), width // int(stride)
        columns = 5 + manifest.num_classes
        shapes: dict[str, tuple[int | str, ...]]
        if manifest.loss_layout == "permuted":
            shapes = {"predictions": (manifest.batch_size, len(anchors), *grid, columns)}
        elif manifest.loss_layout == "head-output":
            shapes = {"predictions": (manifest.batch_size, len(anchors) * columns, *grid)}
        else:
            channels = f"channels_{level}"
            shapes = {
                "features": (manifest.batch_size, channels, *grid),
                "weight": (len(anchors) * columns, channels, 1, 1),
                "bias": (len(anchors) * columns,),
            }
        inputs |= {f"{name}_{level}": OnnxValue(FLOAT, shape) for name, shape in shapes.items()}
    return inputs


def loss_outputs(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the outputs: loss, loss terms, next balance and, if exported, gradients."""
    outputs = {
        "loss": OnnxValue(FLOAT, ()),
        "items": OnnxValue(FLOAT, (3,)),
        "new_balance": OnnxValue(FLOAT, (len(manifest.strides),)),
    }
    if manifest.gradients:
        outputs |= {gradient_name(name): value for name, value in loss_inputs(manifest).items()}
    return outputs


def gradient_name(name: str) -> str:
    """Return the name of an input's gradient, such as `bias_gradient_0` for `bias_0`."""
    kind, _, level = name.rpartition("_")
    of = "" if kind in ("predictions", "features") else f"{kind}_"
    return f"{of}gradient_{level}"

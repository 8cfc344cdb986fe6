"""What goes into the loss alone and what comes out, by its manifest."""

from __future__ import annotations

from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.onnx_file import FLOAT, OnnxValue

__all__ = ["gradient_name", "loss_inputs", "loss_outputs"]


def loss_inputs(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return what the loss is a function of: predictions, or features and the head's convolutions.

    The manifest does not say how many channels features have: that size has a name instead.
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
    """Return the loss, its terms, the next balance and, where the graph has them, gradients."""
    outputs = {
        "loss": OnnxValue(FLOAT, ()),
        "items": OnnxValue(FLOAT, (3,)),
        "new_balance": OnnxValue(FLOAT, (len(manifest.strides),)),
    }
    if manifest.gradients:
        outputs |= {gradient_name(name): value for name, value in loss_inputs(manifest).items()}
    return outputs


def gradient_name(name: str) -> str:
    """Name an input's gradient: `gradient_0` of `features_0`, `bias_gradient_0` of `bias_0`."""
    kind, _, level = name.rpartition("_")
    of = "" if kind in ("predictions", "features") else f"{kind}_"
    return f"{of}gradient_{level}"

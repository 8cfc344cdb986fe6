"""Inputs and outputs of a loss alone, as its manifest implies them."""

from __future__ import annotations

from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.onnx_files.onnx_file import FLOAT, OnnxValue

__all__ = ["gradient_name", "loss_inputs", "loss_outputs", "loss_state", "loss_values"]


def loss_inputs(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the inputs of the loss: predictions, or features and the head's convolutions.

    The manifest does not give the number of channels of features: that size has a name instead.
    """
    height, width = manifest.image_size
    columns = manifest.loss_kind.columns(manifest.loss, manifest.num_classes)
    inputs: dict[str, OnnxValue] = {}
    for level, stride in enumerate(manifest.strides):
        grid = height // int(stride), width // int(stride)
        boxes = len(manifest.anchors[level]) if manifest.anchors else 1  # per cell
        shapes: dict[str, tuple[int | str, ...]]
        if manifest.loss_layout == "permuted":
            shapes = {"predictions": (manifest.batch_size, boxes, *grid, columns)}
        elif manifest.loss_layout == "head-output":
            shapes = {"predictions": (manifest.batch_size, boxes * columns, *grid)}
        else:
            channels = f"channels_{level}"
            shapes = {
                "features": (manifest.batch_size, channels, *grid),
                "weight": (boxes * columns, channels, 1, 1),
                "bias": (boxes * columns,),
            }
        inputs |= {f"{name}_{level}": OnnxValue(FLOAT, shape) for name, shape in shapes.items()}
    return inputs


def loss_outputs(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the outputs: loss, loss terms, next state and, if exported, gradients."""
    outputs = {
        **loss_values(manifest),
        **{f"new_{name}": value for name, value in loss_state(manifest).items()},
    }
    if manifest.gradients:
        outputs |= {gradient_name(name): value for name, value in loss_inputs(manifest).items()}
    return outputs


def loss_values(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the outputs of every graph that computes the loss: the loss and its terms."""
    return {
        "loss": OnnxValue(FLOAT, ()),
        "items": OnnxValue(FLOAT, (len(manifest.loss_kind.terms),)),
    }


def loss_state(manifest: Manifest) -> dict[str, OnnxValue]:
    """Return the inputs that hold the state of the loss."""
    return {name: OnnxValue(FLOAT, (len(values),)) for name, values in manifest.loss_state.items()}


def gradient_name(name: str) -> str:
    """Return the name of an input's gradient, such as `bias_gradient_0` for `bias_0`."""
    kind, _, level = name.rpartition("_")
    of = "" if kind in ("predictions", "features") else f"{kind}_"
    return f"{of}gradient_{level}"

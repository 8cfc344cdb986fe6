"""Building of a detector with a checkpoint's weights, for the same classes or others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.models.checkpoint import Checkpoint
from exportloss.models.layers import C3, SPP, SPPF
from exportloss.models.weights_file import refuse_integers, with_path
from exportloss.models.yolov5 import YoloV5, yolov5

__all__ = ["Transferred", "transfer"]

_Option = bool | int | tuple[int, ...] | None
# Defaults of a block's second argument in a yaml; it affects the function but no tensor.
_DEFAULTS: Mapping[str, Any] = {"C3": True, "SPP": (5, 9, 13), "SPPF": 5}
_OPTIONAL = (".num_batches_tracked", ".anchors")  # not in saved training states


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transferred:
    """A detector with the weights of a checkpoint.

    Attributes:
        model: Detector.
        taken: Number of its tensors that come from the checkpoint.
        total: Number of all its tensors. Neither number includes batch counters, on which nothing
            depends, or anchors, which come from the checkpoint if it has any.
    """

    model: YoloV5
    taken: int
    total: int


def transfer(checkpoint: Checkpoint, num_classes: int | None = None) -> Transferred:
    """Build the checkpoint's detector and give it every tensor that fits, as YOLOv5 does.

    For the checkpoint's number of classes these are all tensors, bit for bit. For another number
    the head's convolutions are initialised anew, from torch's default generator. The anchors remain
    the checkpoint's, for which its other layers were trained.

    Args:
        checkpoint: Result of `read_checkpoint`.
        num_classes: Number of classes, >= 1; default the checkpoint's.

    Raises:
        ArtifactError: the checkpoint's architecture is not that of the detector it names, or its
            weights are integers.
        ConfigError: `num_classes` is below 1.
    """
    try:
        model = yolov5(checkpoint.model, checkpoint.num_classes, anchors=checkpoint.anchors)
    except ConfigError as error:  # the anchors are unsuitable
        raise ArtifactError(f"{checkpoint.path}: {error}") from error
    _check(checkpoint, model)
    if num_classes not in (None, checkpoint.num_classes):
        model = yolov5(checkpoint.model, num_classes, anchors=checkpoint.anchors)
    own = model.state_dict()
    taken = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if own[name].shape == tensor.shape
    }
    model.load_state_dict({**own, **taken})
    counted = [name for name in own if not name.endswith(_OPTIONAL)]
    return Transferred(model=model, taken=len(taken.keys() & set(counted)), total=len(counted))


def _check(checkpoint: Checkpoint, model: YoloV5) -> None:
    """Compare strides, tensors, modules and their connections with those of the model."""

    def compare(what: str, got: object, expected: object) -> None:
        if got != expected:
            raise ArtifactError(
                f"{checkpoint.path} is not YOLOv5's {model.name}: {what} is "
                f"{excerpt(got, 200)}, expected {expected}"
            )

    strides = tuple(map(float, model.strides))
    compare("its stride", checkpoint.strides or strides, strides)
    given, own = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for tensors in (checkpoint.tensors, model.state_dict())
    )
    for name in (*own, *given):
        if name in given or not name.endswith(_OPTIONAL):
            compare(repr(name), given.get(name, "missing"), own.get(name, "nothing"))
    weights = {name: t for name, t in model.state_dict().items() if not name.endswith(_OPTIONAL)}
    with with_path(checkpoint.path):
        refuse_integers(checkpoint.tensors, weights)
    for path, module in model.named_modules():
        if path and path in checkpoint.classes:
            compare(repr(path), checkpoint.classes[path], type(module).__name__)
    if checkpoint.yaml:
        try:
            wiring = _wiring(checkpoint.yaml)
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise ArtifactError(
                f"{checkpoint.path}: its yaml describes no layers: {excerpt(repr(error), 200)}"
            ) from error
        for index, (layer, taken) in enumerate(zip(model.model, model.sources, strict=True)):
            expected = (taken or (index - 1,), _option(layer))
            compare(
                f"the input and option (shortcut, pooling) of layer {index}",
                wiring.get(index),
                expected,
            )


def _wiring(yaml: Mapping[str, Any]) -> dict[int, tuple[tuple[int, ...], _Option]]:
    """Return the indices of each layer's inputs, and its option, by the layer's index."""
    wiring = {}
    for index, (inputs, _, module, options) in enumerate([*yaml["backbone"], *yaml["head"]]):
        taken = tuple(
            index + one if one < 0 else one
            for one in (inputs if isinstance(inputs, (list, tuple)) else [inputs])
        )
        wiring[index] = taken, _option_in_yaml(module, options)
    return wiring


def _option_in_yaml(module: Any, options: Any) -> _Option:
    if module not in _DEFAULTS:
        return None
    said = options[1] if len(options) > 1 else _DEFAULTS[module]
    if module == "C3":
        return bool(said)
    return tuple(map(int, said)) if module == "SPP" else int(said)


def _option(layer: nn.Module) -> _Option:
    """Return whether a C3's blocks have a shortcut, or the kernels of a pyramid's pooling."""
    if isinstance(layer, C3):
        return layer.shortcut
    if isinstance(layer, SPP):
        return layer.kernels
    return layer.kernel if isinstance(layer, SPPF) else None

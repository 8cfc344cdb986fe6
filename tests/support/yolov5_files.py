"""Checkpoints pickled in YOLOv5's class layout, without YOLOv5.

The classes are empty, under the names that YOLOv5 gives them; attributes and modules are those that
its models have. They are known to Python only while a file is written.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

from exportloss.models import Detect, YoloV5, yolov5
from exportloss.models.layers import C3, SPP, SPPF

_NAMES = {
    "models.yolo": ("Model", "DetectionModel", "Detect"),
    "models.common": ("Conv", "Focus", "Bottleneck", "C3", "SPP", "SPPF", "Concat"),
    "utils.loss": ("Settings",),
}
CLASSES = ("cat", "dog", "ünïcode 🐕")


def make_detector(seed: int = 0, name: str = "yolov5n", **options: Any) -> YoloV5:
    """A detector of `CLASSES` whose every tensor is exact in float16 and not as initialised."""
    torch.manual_seed(seed)
    model = yolov5(name, len(CLASSES), **options)
    for key, tensor in model.state_dict().items():
        if not key.endswith("anchors"):
            tensor.copy_(tensor + 7 if tensor.dtype == torch.long else torch.rand_like(tensor))
    return model.half().float()


@contextlib.contextmanager
def yolov5_classes() -> Iterator[dict[str, type[nn.Module]]]:
    """Register classes under YOLOv5's names; yields them by name."""
    modules, classes = {}, {}
    for module_name, names in _NAMES.items():
        package = module_name.partition(".")[0]
        modules.setdefault(package, types.ModuleType(package))
        module = modules.setdefault(module_name, types.ModuleType(module_name))
        setattr(modules[package], module_name.partition(".")[2], module)
        for name in names:
            classes[name] = type(name, (nn.Module,), {"__module__": module_name})
            setattr(module, name, classes[name])
    with mock.patch.dict(sys.modules, modules):
        yield classes


def save_checkpoint(
    path: Path,
    model: YoloV5,
    *,
    names: object,
    ema: YoloV5 | None = None,
    root: str = "DetectionModel",
    bare: bool = False,
    half: bool = True,
    zipped: bool = True,
    **changes: Any,
) -> None:
    """Write `model` as YOLOv5's training does; `changes` are attributes of the whole model."""
    changes = {"names": names, **changes}
    with yolov5_classes() as classes:
        whole = [
            None if one is None else _as_yolov5(one, classes, root=root, changes=changes)
            for one in (model, ema)
        ]
        if half:
            whole = [None if one is None else one.half() for one in whole]
        torch.save(
            whole[0]
            if bare
            else {
                "epoch": 12,
                "best_fitness": np.array([0.25]),  # YOLOv5's fitness is a numpy array
                "model": whole[0],
                "ema": whole[1],
                "updates": 1234,
                "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": []},
                "opt": {"weights": Path("yolov5n.pt"), "epochs": 300},
                "loss": classes["Settings"](),
                "date": "2022-11-22T13:14:15",
            },
            path,
            _use_new_zipfile_serialization=zipped,
        )


def _as_yolov5(
    model: YoloV5, classes: dict[str, type[nn.Module]], *, root: str, changes: dict[str, Any]
) -> nn.Module:
    whole = classes[root]()
    whole.model = _converted(model.model, classes)
    if model.name.endswith("-v5.0"):
        grid = model.anchors_px.view(model.detect.nl, 1, -1, 1, 1, 2)
        whole.model[-1].register_buffer("anchor_grid", grid.clone())
    whole.yaml = yaml_of(model)
    whole.nc, whole.stride = model.num_classes, model.detect.stride
    whole.save = sorted({index for taken in model.sources for index in taken})
    whole.inplace, whole.hyp = True, {"lr0": 0.01, "box": 0.05}
    whole.class_weights = torch.ones(model.num_classes)
    for name, value in changes.items():
        setattr(whole, name, value)
    return whole


def _converted(module: nn.Module, classes: dict[str, type[nn.Module]]) -> nn.Module:
    """Rebuild a module of ours as one of YOLOv5's classes; torch's own stay what they are."""
    new = classes[type(module).__name__]() if type(module).__name__ in classes else None
    if new is None:
        new = object.__new__(type(module))
        new.__dict__ = {**module.__dict__, "_parameters": {}, "_buffers": {}, "_modules": {}}
    for name, parameter in module.named_parameters(recurse=False):
        new.register_parameter(name, nn.Parameter(parameter.detach().clone()))
    for name, buffer in module.named_buffers(recurse=False):
        if name in module.state_dict():
            new.register_buffer(name, buffer.clone())
    if isinstance(module, Detect):
        new.stride = module.stride  # a plain attribute in YOLOv5
        new.nc, new.nl, new.na, new.no = module.nc, module.nl, module.na, module.no
        new.grid = [torch.zeros(1)] * module.nl
    for name, child in module.named_children():
        new.add_module(name, _converted(child, classes))
    return new


def yaml_of(model: YoloV5) -> dict[str, Any]:
    """The model's description as YOLOv5's files have it."""
    layers = []
    for layer, taken in zip(model.model, model.sources, strict=True):
        name = type(layer).__name__
        inputs = [-1, *taken[1:]] if name == "Concat" else list(taken) or -1
        options: list[Any] = [64]
        if isinstance(layer, C3) and not layer.shortcut:
            options.append(False)
        elif isinstance(layer, SPP):
            options.append(list(layer.kernels))
        elif isinstance(layer, SPPF):
            options.append(layer.kernel)
        layers.append([inputs, 1, "nn.Upsample" if name == "Upsample" else name, options])
    head = next(i for i, layer in enumerate(layers) if layer[2] == "nn.Upsample") - 1
    return {
        "nc": model.num_classes,
        "depth_multiple": 0.33,
        "width_multiple": 0.25,
        "anchors": [[10, 13, 16, 30, 33, 23]],
        "backbone": layers[:head],
        "head": layers[head:],
    }

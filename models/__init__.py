"""YOLOv5's detectors in torch, with YOLOv5's parameter names."""

from exportloss.models.freeze import FrozenBatchNorm2d, freeze
from exportloss.models.groups import ParameterGroups, parameter_groups
from exportloss.models.layers import Detect
from exportloss.models.yolov5 import YoloV5, yolov5

__all__ = [
    "Detect",
    "FrozenBatchNorm2d",
    "ParameterGroups",
    "YoloV5",
    "freeze",
    "parameter_groups",
    "yolov5",
]

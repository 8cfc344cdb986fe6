"""YOLOv5's detectors in torch, with YOLOv5's parameter names."""

from exportloss.models.checkpoint import Checkpoint, read_checkpoint
from exportloss.models.freeze import FrozenBatchNorm2d, freeze
from exportloss.models.groups import ParameterGroups, parameter_groups
from exportloss.models.layers import Detect
from exportloss.models.own_weights import LoadedWeights, load_own_weights
from exportloss.models.protocol import DetectorModel
from exportloss.models.sparse_update import train_only
from exportloss.models.state_dict import save_state_dict
from exportloss.models.transfer import Transferred, transfer
from exportloss.models.yolov5 import YoloV5, yolov5

__all__ = [
    "Checkpoint",
    "Detect",
    "DetectorModel",
    "FrozenBatchNorm2d",
    "LoadedWeights",
    "ParameterGroups",
    "Transferred",
    "YoloV5",
    "freeze",
    "load_own_weights",
    "parameter_groups",
    "read_checkpoint",
    "save_state_dict",
    "train_only",
    "transfer",
    "yolov5",
]

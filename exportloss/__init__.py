"""Train object detectors on devices without PyTorch.

The names below are the public interface. Those that need torch or numpy are imported on first use:
`exportloss.runtime` and `exportloss.pad_targets` then run without torch, and the command line
reacts to Ctrl-C as soon as it starts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from exportloss.config import LossConfig
from exportloss.errors import (
    ArtifactError,
    BenchmarkError,
    ConfigError,
    DataError,
    DeviceError,
    ExportError,
    ExportLossError,
    InstallationError,
    TargetError,
    TooManyTargetsError,
    TrainingError,
)
from exportloss.task_aligned_config import TaskAlignedConfig

if TYPE_CHECKING:
    from exportloss import eager as eager
    from exportloss.loss.sparse_head import SparseHeadLoss as SparseHeadLoss
    from exportloss.loss.sparse_head import head_inputs as head_inputs
    from exportloss.loss.task_aligned.loss import TaskAlignedLoss as TaskAlignedLoss
    from exportloss.loss.yolo_loss import YoloLoss as YoloLoss
    from exportloss.targets import pad_targets as pad_targets

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BenchmarkError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "ExportError",
    "ExportLossError",
    "InstallationError",
    "LossConfig",
    "SparseHeadLoss",
    "TargetError",
    "TaskAlignedConfig",
    "TaskAlignedLoss",
    "TooManyTargetsError",
    "TrainingError",
    "YoloLoss",
    "eager",
    "head_inputs",
    "pad_targets",
]


def __getattr__(name: str) -> Any:
    if name == "YoloLoss":
        return import_module("exportloss.loss.yolo_loss").YoloLoss
    if name == "TaskAlignedLoss":
        return import_module("exportloss.loss.task_aligned.loss").TaskAlignedLoss
    if name in ("SparseHeadLoss", "head_inputs"):
        return getattr(import_module("exportloss.loss.sparse_head"), name)
    if name == "pad_targets":
        return import_module("exportloss.targets").pad_targets
    if name == "eager":
        return import_module("exportloss.eager")
    raise AttributeError(f"module 'exportloss' has no attribute {name!r}")

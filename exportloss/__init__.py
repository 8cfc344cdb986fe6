"""Train object detectors where PyTorch is not.

The names below are the public interface. What needs torch is loaded when first used, so that
`exportloss.runtime` and `exportloss.pad_targets` run on devices that have numpy only.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from exportloss.config import LossConfig
from exportloss.errors import (
    ArtifactError,
    BenchmarkError,
    ConfigError,
    DataError,
    ExportError,
    ExportLossError,
    InstallationError,
    TargetError,
    TooManyTargetsError,
    TrainingError,
)
from exportloss.targets import pad_targets

if TYPE_CHECKING:
    from exportloss import eager as eager
    from exportloss.loss import YoloLoss as YoloLoss
    from exportloss.sparse_head import SparseHeadLoss as SparseHeadLoss
    from exportloss.sparse_head import head_inputs as head_inputs

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BenchmarkError",
    "ConfigError",
    "DataError",
    "ExportError",
    "ExportLossError",
    "InstallationError",
    "LossConfig",
    "SparseHeadLoss",
    "TargetError",
    "TooManyTargetsError",
    "TrainingError",
    "YoloLoss",
    "eager",
    "head_inputs",
    "pad_targets",
]


def __getattr__(name: str) -> Any:
    if name == "YoloLoss":
        return import_module("exportloss.loss").YoloLoss
    if name in ("SparseHeadLoss", "head_inputs"):
        return getattr(import_module("exportloss.sparse_head"), name)
    if name == "eager":
        return import_module("exportloss.eager")
    raise AttributeError(f"module 'exportloss' has no attribute {name!r}")

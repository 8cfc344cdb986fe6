"""From a torch detector and its loss to files that train or detect.

What is named here is loaded when it is first used: `check` needs onnx, the rest torch as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportloss.export.inference import export_inference as export_inference
    from exportloss.export.loss_graph import export_loss as export_loss
    from exportloss.export.nms_graph import NmsSettings as NmsSettings
    from exportloss.export.provider_check import check as check
    from exportloss.export.provider_result import CheckResult as CheckResult
    from exportloss.export.train_step import export_train_step as export_train_step
    from exportloss.export.training import export_training_artifacts as export_training_artifacts

__all__ = [
    "CheckResult",
    "NmsSettings",
    "check",
    "export_inference",
    "export_loss",
    "export_train_step",
    "export_training_artifacts",
]

_MODULES = {
    "CheckResult": "provider_result",
    "NmsSettings": "nms_graph",
    "check": "provider_check",
    "export_inference": "inference",
    "export_loss": "loss_graph",
    "export_train_step": "train_step",
    "export_training_artifacts": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'exportloss.export' has no attribute {name!r}")
    return getattr(import_module(f"exportloss.export.{_MODULES[name]}"), name)

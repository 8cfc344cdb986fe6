"""Export of a torch detector and its loss to files that train or detect.

The names below are loaded on first use: `check` needs onnx, all others need torch too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exportloss.export.detector.inference import export_inference as export_inference
    from exportloss.export.detector.nms_settings import NmsSettings as NmsSettings
    from exportloss.export.loss.export import export_loss as export_loss
    from exportloss.export.ort.export import export_training_artifacts as export_training_artifacts
    from exportloss.export.providers.check import check as check
    from exportloss.export.providers.result import CheckResult as CheckResult
    from exportloss.export.step.export import export_train_step as export_train_step

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
    "CheckResult": "providers.result",
    "NmsSettings": "detector.nms_settings",
    "check": "providers.check",
    "export_inference": "detector.inference",
    "export_loss": "loss.export",
    "export_train_step": "step.export",
    "export_training_artifacts": "ort.export",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'exportloss.export' has no attribute {name!r}")
    return getattr(import_module(f"exportloss.export.{_MODULES[name]}"), name)

"""From a torch detector and its loss to files that train or detect. Needs torch and onnx."""

from exportloss.export.inference import export_inference
from exportloss.export.loss_graph import export_loss
from exportloss.export.nms_graph import NmsSettings
from exportloss.export.provider_check import check
from exportloss.export.provider_result import CheckResult
from exportloss.export.train_step import export_train_step
from exportloss.export.training import export_training_artifacts

__all__ = [
    "CheckResult",
    "NmsSettings",
    "check",
    "export_inference",
    "export_loss",
    "export_train_step",
    "export_training_artifacts",
]

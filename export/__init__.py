"""From a torch detector and its loss to files that train. Needs torch and onnx."""

from exportloss.export.loss_graph import export_loss
from exportloss.export.training import export_training_artifacts

__all__ = ["export_loss", "export_training_artifacts"]

"""From a torch detector and its loss to files that train. Needs torch and onnx."""

from exportloss.export.loss_graph import export_loss
from exportloss.export.train_step import export_train_step
from exportloss.export.training import export_training_artifacts

__all__ = ["export_loss", "export_train_step", "export_training_artifacts"]

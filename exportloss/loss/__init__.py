"""The YOLOv5 training loss with fixed shapes."""

from exportloss.loss.yolo_loss import YoloLoss

__all__ = ["YoloLoss"]

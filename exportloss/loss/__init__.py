"""The YOLOv5 training loss with fixed shapes."""

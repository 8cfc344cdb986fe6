"""The anchor-free loss with fixed shapes, of the detectors that followed YOLOv5.

Task-aligned assignment (Feng et al., arXiv 2108.07755), complete IoU (Zheng et al., 1911.08287),
distribution focal loss (Li et al., 2006.04388) and binary cross-entropy.
"""

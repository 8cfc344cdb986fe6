"""Public path of non-maximum suppression."""

from exportloss.runtime.evaluation.nms import non_max_suppression, suppress

__all__ = ["non_max_suppression", "suppress"]

"""Public path of `Detector`."""

from exportloss.runtime.evaluation.inference import Detector

__all__ = ["Detector"]

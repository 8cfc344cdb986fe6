"""Public path of `validate` and `MetricsAccumulator`."""

from exportloss.runtime.evaluation.metrics import MetricsAccumulator
from exportloss.runtime.evaluation.validate import (
    BatchDetections,
    Predict,
    Validation,
    true_boxes,
    validate,
)

__all__ = [
    "BatchDetections",
    "MetricsAccumulator",
    "Predict",
    "Validation",
    "true_boxes",
    "validate",
]

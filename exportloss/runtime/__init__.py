"""What a device runs: training sessions, data and metrics, without torch and without onnx."""

from exportloss.runtime.loss_session import LossResult, LossSession
from exportloss.runtime.manifest import Manifest
from exportloss.runtime.registry import open_session
from exportloss.runtime.session import Evaluation, Items, StepResult, TrainSession
from exportloss.runtime.state import TrainState

__all__ = [
    "Evaluation",
    "Items",
    "LossResult",
    "LossSession",
    "Manifest",
    "StepResult",
    "TrainSession",
    "TrainState",
    "open_session",
]

"""What a device runs: training sessions, data and metrics, without torch and without onnx."""

from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.sessions.loss_session import LossResult, LossSession
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.sessions.session import Evaluation, Items, StepResult, TrainSession

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

"""What a device runs: training, detection, data and metrics, without torch and without onnx."""

from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.artifact.weights import Weights, WeightsLayout
from exportloss.runtime.federated.average import average
from exportloss.runtime.images.load import load_image
from exportloss.runtime.inference import Detector
from exportloss.runtime.sessions.loss_session import LossResult, LossSession
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.sessions.session import Evaluation, LossTerms, StepResult, TrainSession

# Now, not when it is needed: the function takes the place of the module of the same name.
from exportloss.runtime.validate import validate

__all__ = [
    "Detector",
    "Evaluation",
    "LossResult",
    "LossSession",
    "LossTerms",
    "Manifest",
    "StepResult",
    "TrainSession",
    "TrainState",
    "Weights",
    "WeightsLayout",
    "average",
    "load_image",
    "open_session",
    "validate",
]

Items = LossTerms  # its former name

"""Public path of `TrainSession` and what it returns."""

from exportloss.runtime.sessions.session import Evaluation, LossTerms, StepResult, TrainSession

__all__ = ["Evaluation", "LossTerms", "StepResult", "TrainSession"]

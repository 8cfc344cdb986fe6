"""The kinds of artifacts, one row per kind, for export, sessions, commands and benchmarks.

A new kind needs a row here, its contents in `check` and, if it trains, its session in
`sessions.registry`, beside its own modules that export and run it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal

__all__ = ["KINDS", "KINDS_BY_FORMAT", "ArtifactKind", "Kind", "formats_taking"]

Kind = Literal["ort-training", "train-step", "loss"]
Opener = Literal["TrainSession", "LossSession"]

_TRAINING_OPTIONS = frozenset({"optimizer", "freeze", "update", "ema", "head"})
_ANY_ENGINE = ("cpu", "gpu", "openvino")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArtifactKind:
    """Properties of a kind of artifact.

    Attributes:
        name: Name in the manifest.
        format: Name for `exportloss export --format`, and of the folder that it writes.
        about: Description for help texts.
        opener: Class of `exportloss.runtime` that opens a folder.
        files: Files that every folder of the kind has.
        extras: Extras of this package that each install an engine for the graphs.
        training_build: Whether that engine must be ONNX Runtime's training build.
        detector_file: Whether a session needs the folder's `inference.onnx` to write its detector.
        exporter: Function that writes a folder, `module:name`. It takes a model and a loss, or only
            the loss for a kind that trains nothing, and needs torch and onnx.
        options: Options of the exporter that not every kind has.
    """

    name: Kind
    format: str
    about: str
    opener: Opener
    files: tuple[str, ...]
    extras: tuple[str, ...]
    training_build: bool = False
    detector_file: bool = False
    exporter: str
    options: frozenset[str]

    @property
    def trains(self) -> bool:
        """Whether a folder holds a detector that can be trained."""
        return self.opener == "TrainSession"

    def load_exporter(self) -> Callable[..., Any]:
        """Import the exporter.

        Raises:
            ImportError: torch or onnx is not installed.
        """
        module, _, name = self.exporter.partition(":")
        function: Callable[..., Any] = getattr(import_module(module), name)
        return function


_ROWS = (
    ArtifactKind(
        name="train-step",
        format="step",
        about="a training step in standard operators, for any onnxruntime",
        opener="TrainSession",
        files=("train_step.onnx", "eval_step.onnx", "state.safetensors"),
        extras=_ANY_ENGINE,
        detector_file=True,
        exporter="exportloss.export.step.export:export_train_step",
        options=_TRAINING_OPTIONS | {"precision", "provider", "memory", "features"},
    ),
    ArtifactKind(
        name="ort-training",
        format="ort",
        about="ONNX Runtime training artifacts",
        opener="TrainSession",
        files=("training_model.onnx", "eval_model.onnx", "checkpoint"),
        extras=("training", "training-cuda"),
        training_build=True,
        exporter="exportloss.export.ort.export:export_training_artifacts",
        options=_TRAINING_OPTIONS,
    ),
    ArtifactKind(
        name="loss",
        format="loss",
        about="the loss alone",
        opener="LossSession",
        files=("loss.onnx",),
        extras=_ANY_ENGINE,
        exporter="exportloss.export.loss.export:export_loss",
        options=frozenset({"gradients", "layout", "tiers", "provider"}),
    ),
)
KINDS: Mapping[Kind, ArtifactKind] = {row.name: row for row in _ROWS}
KINDS_BY_FORMAT: Mapping[str, ArtifactKind] = {row.format: row for row in _ROWS}


def formats_taking(option: str) -> frozenset[str]:
    """Return the formats whose exporters have an option."""
    return frozenset(row.format for row in _ROWS if option in row.options)

"""Export of a run's weights: options that are not given come from the run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.cli.export.weights import is_size_name
from exportloss.cli.run_paths import artifacts_of, find_run, is_artifact
from exportloss.cli.terminal import say
from exportloss.config import LossConfig
from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.training.run_folder import RunFolder, read_yaml

__all__ = ["fill_from_run"]

_TRAINING = ("ort", "step")
_GRAPHS = (*_TRAINING, "loss")


def fill_from_run(options: argparse.Namespace) -> argparse.Namespace:
    """Return the options of an export, completed from the run that `--weights` names.

    Taken are the image size; for a format that trains, or the loss, also batch size, target rows
    and hyperparameters; and for one that trains, optimizer, moving average and precision. Class
    names, anchors and strides are in the weights. Not taken are `--freeze`, which is a choice of a
    training, and `--head`, which gives the same numbers and is chosen for the sizes.

    Args:
        options: Options as parsed; those that were given are kept.

    Raises:
        ArtifactError: `--weights` is a folder that is no run, or a run without weights, or the
            run's own files are damaged.
    """
    weights = Path(options.weights)
    if is_size_name(options.weights):  # even if a folder has that name
        return options
    run, state = find_run(weights)
    if run is None or state is None:
        if weights.is_dir():
            kind = "an artifacts folder" if is_artifact(weights) else "no run"
            raise ArtifactError(
                f"{weights} is {kind}; expected a file of weights, a size such as yolov5n, or a "
                "run, whose weights/best.safetensors is then exported"
            )
        return options
    if not state.is_file():
        raise ArtifactError(f"{state} is missing: the run has no weights to export yet")
    known = _known(run, options.format)
    taken = {name: value for name, value in known.items() if getattr(options, name) is None}
    if taken:
        listed = ", ".join(f"{name.replace('_', '-')} {_shown(v)}" for name, v in taken.items())
        say(f"from {run.path}: {listed}")
    return argparse.Namespace(**{**vars(options), "weights": str(state), **taken})


def _known(run: RunFolder, formats: tuple[str, ...]) -> Mapping[str, Any]:
    """Return what a run answers, by the names of the options of an export."""
    recorded = read_yaml(run.options)
    artifacts = artifacts_of(run)
    manifest = None if artifacts is None else Manifest.read(artifacts)
    known: dict[str, Any] = {}
    if manifest is not None:
        known["imgsz"] = list(manifest.image_size)
    elif _is_size(recorded.get("imgsz")):
        known["imgsz"] = recorded["imgsz"]
    if set(formats) & set(_GRAPHS):
        for name in ("batch_size", "max_targets"):
            value = recorded.get(name) if manifest is None else getattr(manifest, name)
            known[name] = value if type(value) is int else None
        known["hyp"] = str(run.hyp) if run.hyp.is_file() else None
        if manifest is not None and manifest.loss.kind != LossConfig.kind:
            known["loss"] = manifest.loss.kind
        known["scale_gains"] = recorded.get("scale_gains") is not False
    if set(formats) & set(_TRAINING) and manifest is not None:
        known |= {"optimizer": manifest.optimizer, "ema": manifest.ema}
        if set(formats) == {"step"}:  # the only format with a precision
            known["precision"] = manifest.precision
    if not set(formats) & {*_GRAPHS, "onnx"}:  # weights alone have no size
        known = {}
    return {name: value for name, value in known.items() if value is not None}


def _is_size(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (1, 2)
        and all(type(side) is int and side > 0 for side in value)
    )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

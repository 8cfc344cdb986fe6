"""`--cache features`: what it needs, and the steps that it takes."""

from __future__ import annotations

import dataclasses

from exportloss.cli.arguments import ExportSettings
from exportloss.cli.terminal import say
from exportloss.cli.train.options import TrainOptions
from exportloss.errors import ConfigError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.training.feature_steps import FeatureSteps
from exportloss.runtime.training.steps import EpochSteps, run_steps

__all__ = ["check_features", "check_images", "steps_for"]


def check_features(options: TrainOptions, source: Manifest | ExportSettings) -> None:
    """Check that `--cache features` can be done.

    Raises:
        ConfigError: the artifacts have no features, no layer is frozen, or several processes train.
    """
    if options.cache != "features":
        return
    if options.distributed is not None:
        raise ConfigError("--cache features is for one process; leave --distributed out")
    if isinstance(source, Manifest):
        if "train_features.onnx" not in source.files:
            raise ConfigError(
                f"--cache features: {options.weights} has no train_features.onnx; write it with "
                "exportloss export --freeze 10 --features"
            )
    elif source.freeze == (0,) or options.format != "step":
        raise ConfigError(
            "--cache features keeps what frozen layers of a portable step compute; give --freeze "
            "10 or another number of layers, and no other --format"
        )


def check_images(options: TrainOptions, wanted: Augmentation) -> None:
    """Check that images do not change where their features are kept.

    Raises:
        ConfigError: features are kept, and the images would change.
    """
    if options.cache != "features":
        return
    given, none = dataclasses.asdict(wanted), dataclasses.asdict(Augmentation())
    if changing := [f"{name} {value:g}" for name, value in given.items() if value != none[name]]:
        raise ConfigError(
            f"--cache features keeps what frozen layers compute of images that do not change; "
            f"{options.hyp or 'the default hyperparameters'} have {', '.join(changing)}: give a "
            "--hyp with all of these at 0, or leave --cache features out"
        )


def steps_for(options: TrainOptions) -> EpochSteps:
    """Return the way to do the steps of an epoch in one process."""
    return FeatureSteps(say) if options.cache == "features" else run_steps

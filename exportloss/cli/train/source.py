"""Source of a training run: artifacts or an export, and initial weights."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exportloss.cli.arguments import ExportSettings, image_size
from exportloss.cli.run_paths import artifacts_of, find_run, is_artifact
from exportloss.cli.train.options import TrainOptions
from exportloss.config import LossConfig
from exportloss.errors import ArtifactError, ConfigError
from exportloss.loss_kinds import LOSS_KINDS, LossSettings
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest
from exportloss.runtime.data.dataset import DataConfig
from exportloss.runtime.storage.replacing import recover_folder
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["Source", "find_source", "loss_settings_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Artifacts and initial weights of a run.

    Attributes:
        what: Manifest of the artifacts, or the settings to export them with.
        artifacts: Folder of the artifacts; None if they are to be exported.
        state: Weights of an earlier run to begin with; None for those of the artifacts.
        run: Run that the state belongs to; None if it belongs to none.
    """

    what: Manifest | ExportSettings
    artifacts: Path | None = None
    state: Path | None = None
    run: RunFolder | None = None


def loss_settings_of(options: TrainOptions) -> type[LossSettings]:
    """Return the class of the settings of the loss that `--weights` or its run trains with.

    Raises:
        ArtifactError: The artifacts, or the options of the run, are damaged.
    """
    weights = Path(options.weights)
    recover_folder(weights)
    run, _ = find_run(weights)
    folder = weights if is_artifact(weights) else _artifacts_of(options, run)
    is_known = folder is not None and is_artifact(folder)
    kind = Manifest.read(folder).loss.kind if folder is not None and is_known else LossConfig.kind
    return LOSS_KINDS[kind].settings


def find_source(options: TrainOptions, data: DataConfig, hyp: dict[str, Any]) -> Source:
    """Resolve `--weights`: artifacts, a run or its weights, a size or a file.

    The weights of a run are trained further with its own artifacts, which needs no torch. For
    another image size or other classes a file of weights is exported again.

    Raises:
        ArtifactError: The run has no weights, or its artifacts are gone or damaged.
        ConfigError: An option or a class contradicts the artifacts.
    """
    weights, loss = Path(options.weights), loss_settings_of(options).from_mapping(hyp)
    if is_artifact(weights):
        if options.artifacts is not None:
            raise ConfigError(f"{weights} is an artifacts folder already; leave --artifacts out")
        return Source(what=_reused(options, weights, loss, hyp), artifacts=weights)
    run, state = find_run(weights)
    if state is None and weights.is_dir():
        raise ArtifactError(
            f"{weights} is no artifacts folder (it has no {MANIFEST_NAME}) and no run (it has no "
            "opt.yaml); give what `exportloss export` or `exportloss train` wrote"
        )
    if options.artifacts is not None:
        state = state or weights
    artifacts = _artifacts_of(options, run)
    if state is not None and not state.is_file():
        raise ArtifactError(f"{state} is missing: there are no weights to begin with")
    if state is not None and artifacts is not None:
        try:
            manifest = _reused(options, artifacts, loss, hyp)
            _check_classes(data, manifest, state)
            return Source(what=manifest, artifacts=artifacts, state=state, run=run)
        except ConfigError:
            can_export = weights.is_file() and options.artifacts is None and find_spec("torch")
            if not can_export:
                raise
    elif weights.is_dir():
        raise ArtifactError(
            f"the artifacts that {weights} was trained with are gone; name them with --artifacts"
        )
    settings = ExportSettings.from_options(
        options,
        names=data.names,
        num_classes=data.num_classes,
        loss=loss,
        features=options.cache == "features",
    )
    return Source(what=settings)


def _artifacts_of(options: TrainOptions, run: RunFolder | None) -> Path | None:
    """Return the artifacts to train a run's weights with; None if there are none."""
    if options.artifacts is not None:
        return Path(options.artifacts)
    return None if run is None else artifacts_of(run)


def _check_classes(data: DataConfig, manifest: Manifest, state: Path) -> None:
    unnamed = tuple(map(str, range(data.num_classes)))
    if manifest.names not in (data.names, unnamed):
        raise ConfigError(
            f"{state} is a detector of {', '.join(manifest.names)}, {data.source} has "
            f"{', '.join(data.names)}; train it on the same classes in the same order, or export "
            "again for these"
        )


def _reused(
    options: TrainOptions, artifacts: Path, loss: LossSettings, hyp: dict[str, Any]
) -> Manifest:
    """Return the manifest, after a check that no option contradicts it."""
    manifest = Manifest.read(artifacts)
    for name, held in (
        ("imgsz", manifest.image_size),
        ("batch_size", manifest.batch_size),
        ("max_targets", manifest.max_targets),
        ("optimizer", manifest.optimizer),
        ("precision", manifest.precision),
        ("model", manifest.model),
        ("freeze", "some layers or none"),
        ("update", "some parameters or all"),
        ("memory", "a memory plan or none"),
        ("anchors", "anchors of their own"),
    ):
        said = getattr(options, name)
        if name == "imgsz":
            said = image_size(options.imgsz, stride=int(max(manifest.strides)))
        if said not in (None, held):
            raise ConfigError(
                f"--{name.replace('_', '-')} {said}: the artifacts in {artifacts} were "
                f"exported with {held}, which is fixed; leave it out, or export again"
            )
    scaled = loss.scaled(
        levels=len(manifest.strides),
        num_classes=manifest.num_classes,
        image_size=manifest.image_size,
    )
    for key in hyp.keys() & dataclasses.asdict(loss).keys():
        said, held = getattr(loss, key), getattr(manifest.loss, key)
        if held not in (said, getattr(scaled, key)):
            raise ConfigError(
                f"{options.hyp or '--label-smoothing'} has {key} {said}: the artifacts in "
                f"{artifacts} were exported with {held}, which is fixed; change it, or export "
                "again with this --hyp"
            )
    return manifest

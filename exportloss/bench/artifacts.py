"""What rivals need exported. Needs torch and onnx when something is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

from exportloss.bench.scenario import Scenario
from exportloss.errors import ArtifactError
from exportloss.runtime.manifest import MANIFEST_NAME, Manifest, Precision

__all__ = ["EXPORTERS", "find_or_export"]

Exporter = Callable[[Scenario, Path], object]


class _Sizes(TypedDict):
    image_size: tuple[int, int]
    batch_size: int
    max_targets: int


def find_or_export(kind: str, scenario: Scenario, folder: Path) -> Path:
    """Return the folder of an artifact, which is exported where it is not there yet.

    Args:
        kind: a key of `EXPORTERS`.
        scenario: the sizes.
        folder: where artifacts are; this one in a folder of its own.

    Raises:
        ArtifactError: what is there is of other sizes.
        ExportLossError: it cannot be exported here.
    """
    path = folder / kind
    if (path / MANIFEST_NAME).exists():
        _check_sizes(path, scenario)
        return path
    EXPORTERS[kind](scenario, path)
    return path


def _check_sizes(path: Path, scenario: Scenario) -> None:
    manifest = Manifest.read(path)
    sizes = ("num_classes", "image_size", "batch_size", "max_targets")
    for name in sizes if manifest.kind == "loss" else (*sizes, "model"):
        found, wanted = getattr(manifest, name), getattr(scenario, name)
        if found != wanted:
            raise ArtifactError(
                f"{path} is of {name} {found}, but {wanted} is to be measured; name another folder"
            )
    if manifest.precision != _precision(scenario):
        raise ArtifactError(
            f"{path} is of precision {manifest.precision}, but {scenario.precision} is to be "
            "measured; name another folder"
        )


def _precision(scenario: Scenario) -> Precision:
    """Return the precision of the graphs: TF32 is a matter of the session."""
    return "float32" if scenario.precision == "tf32" else scenario.precision


def _sizes(scenario: Scenario) -> _Sizes:
    return {
        "image_size": scenario.image_size,
        "batch_size": scenario.batch_size,
        "max_targets": scenario.max_targets,
    }


def _export_loss(scenario: Scenario, path: Path) -> None:
    from exportloss.bench.detector import make_loss, make_model
    from exportloss.export import export_loss

    model = make_model(scenario)
    loss, sizes = make_loss(model, scenario), _sizes(scenario)
    export_loss(
        loss,
        path,
        gradients=True,
        layout=scenario.layout,
        head=model.detect,
        provider="cpu" if scenario.device == "cpu" else "gpu",
        **sizes,
    )


def _export_step(scenario: Scenario, path: Path) -> None:
    from exportloss.bench.detector import make_loss, make_model
    from exportloss.export import export_train_step

    model = make_model(scenario)
    loss = make_loss(model, scenario)
    export_train_step(
        model,
        loss,
        path,
        freeze=scenario.freeze,
        provider="any" if scenario.device == "cpu" else "gpu",
        precision=_precision(scenario),
        **_sizes(scenario),
    )


def _export_training(scenario: Scenario, path: Path) -> None:
    from exportloss.bench.detector import make_loss, make_model
    from exportloss.export import export_training_artifacts

    model = make_model(scenario)
    loss = make_loss(model, scenario)
    export_training_artifacts(model, loss, path, freeze=scenario.freeze, **_sizes(scenario))


EXPORTERS: Mapping[str, Exporter] = {
    "loss": _export_loss,
    "step": _export_step,
    "ort": _export_training,
}

"""Exports that implementations need. Exporting needs torch and onnx; reusing a folder does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from exportloss.bench.scenario import Scenario
from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.kinds import KINDS, ArtifactKind
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, LossProvider, Manifest, Precision

__all__ = ["EXPORTERS", "find_or_export"]

Exporter = Callable[[Scenario, Path], object]


def find_or_export(kind: str, scenario: Scenario, folder: Path) -> Path:
    """Return the folder of an artifact; export it unless it exists.

    Args:
        kind: Key of `EXPORTERS`.
        scenario: Sizes.
        folder: Parent folder of the artifacts, with a subfolder per kind.

    Raises:
        ArtifactError: The folder exists with other sizes.
        ExportLossError: The export failed.
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
    for name in (*sizes, "model") if KINDS[manifest.kind].trains else sizes:
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


def _exporter(kind: ArtifactKind) -> Exporter:
    """Make the exporter of a kind; it passes on the parts of the scenario that are its options."""

    def export(scenario: Scenario, path: Path) -> None:
        from exportloss.bench.implementations.detector import make_loss, make_model

        model = make_model(scenario)
        loss = make_loss(model, scenario)
        for_cpu = "any" if kind.trains else "cpu"
        known = {
            "freeze": scenario.freeze,
            "precision": _precision(scenario),
            "provider": for_cpu if scenario.device == "cpu" else "gpu",
            "gradients": True,
            "layout": scenario.layout,
        }
        options: dict[str, Any] = {name: known[name] for name in kind.options & known.keys()}
        if not kind.trains:
            options["head"] = model.detect
        kind.load_exporter()(
            *((model, loss) if kind.trains else (loss,)),
            path,
            image_size=scenario.image_size,
            batch_size=scenario.batch_size,
            max_targets=scenario.max_targets,
            **options,
        )

    return export


def _task_aligned_exporter(provider: LossProvider) -> Exporter:
    """Make the exporter of the anchor-free loss, in the form for a provider on a CPU."""

    def export(scenario: Scenario, path: Path) -> None:
        from exportloss.bench.implementations.task_aligned_torch import make_task_aligned_loss
        from exportloss.export import export_loss

        export_loss(
            make_task_aligned_loss(scenario),
            path,
            image_size=scenario.image_size,
            batch_size=scenario.batch_size,
            max_targets=scenario.max_targets,
            gradients=True,
            provider=provider if scenario.device == "cpu" else "gpu",
        )

    return export


EXPORTERS: Mapping[str, Exporter] = {
    **{kind.format: _exporter(kind) for kind in KINDS.values()},
    "task-aligned-loss": _task_aligned_exporter("any"),
    "task-aligned-loss-cpu": _task_aligned_exporter("cpu"),
}

"""Where an export writes its files and folders."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from exportloss.cli.export.own_model import is_function_name
from exportloss.cli.export.weights import is_file_name
from exportloss.cli.outputs import check_outputs
from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.folder import check_place
from exportloss.runtime.artifact.manifest import MANIFEST_NAME

__all__ = ["check_places", "file_path"]


def file_path(weights: str, output: Path, suffix: str) -> Path:
    """Return the path of a file that is named after the weights.

    With suffix `onnx`, `runs/best.safetensors` gives `best.onnx`, `n` gives `yolov5n.onnx`, and the
    function `mine.detectors:build` gives `build.onnx`.
    """
    if is_function_name(weights):
        return output / f"{weights.rpartition(':')[2]}.{suffix}"
    stem = (
        Path(weights).stem if is_file_name(weights) else f"yolov5{weights.removeprefix('yolov5')}"
    )
    return output / f"{stem}.{suffix}"


def check_places(
    options: argparse.Namespace, folders: Mapping[str, Path], files: Mapping[str, Path]
) -> None:
    """Check that nothing is replaced without `--exist-ok`, and nothing that is read at all.

    Raises:
        ArtifactError: A file or folder exists already, or is an input.
        ConfigError: A folder holds an input.
    """
    read = {name: getattr(options, name) for name in ("weights", "data", "hyp")}
    read = {name: Path(path) for name, path in read.items() if path and Path(path).exists()}
    check_outputs(read.values(), (), trees=folders.values())
    for path in files.values():
        for name, one in read.items():
            if path.exists() and path.samefile(one):
                raise ArtifactError(
                    f"{path} is what --{name} is read from; choose another --output"
                )
        if (path.parent / MANIFEST_NAME).exists():
            raise ArtifactError(f"{path.parent} is an artifacts folder; choose another --output")
    for folder in folders.values():
        check_place(folder, exist_ok=options.exist_ok)
    taken = [path for path in files.values() if path.exists()]
    if taken and not options.exist_ok:
        raise ArtifactError(
            f"{taken[0]} exists already; choose another --output, or pass --exist-ok"
        )

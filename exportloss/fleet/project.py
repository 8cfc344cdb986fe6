"""The folder that `flwr run` takes: a `pyproject.toml` and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import exportloss
from exportloss.errors import ArtifactError
from exportloss.fleet.settings import FleetSettings
from exportloss.runtime.storage.files import new_file

__all__ = ["new_project"]

_HEAD = """\
# Flower's description of a federated run with exportloss. All code is in the installed package:
# what `flwr run` uploads, and devices execute, is this file alone.
[project]
name = "exportloss-fleet"
version = "{version}"
description = "Federated training of a detector"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "exportloss"

[tool.flwr.app.components]
serverapp = "exportloss.fleet.flower_server:app"
clientapp = "exportloss.fleet.flower_client:app"

# Change a value here, or with `flwr run --run-config`. The first four are the server's own paths,
# absolute; devices have theirs in their own config.
[tool.flwr.app.config]
artifacts = ""
data = ""
weights = ""
output = ""
"""


def new_project(folder: str | Path) -> Path:
    """Write `pyproject.toml` into a folder, which is made if it is missing.

    Returns:
        Path of the file.

    Raises:
        ArtifactError: the folder is not empty, or cannot be written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be made: {error}") from error
    if held:
        raise ArtifactError(
            f"{folder} holds {held[0]}; expected an empty folder, for Flower uploads all that is "
            "in it: name another"
        )
    lines = [
        f"{field.name.replace('_', '-')} = {_toml(field.default)}"
        for field in dataclasses.fields(FleetSettings)
    ]
    text = _HEAD.format(version=exportloss.__version__) + "\n".join(lines) + "\n"
    with new_file(folder / "pyproject.toml") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / "pyproject.toml"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)

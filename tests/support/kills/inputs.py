"""What the kills are tried on: the tiny detector's artifacts and data, given or made."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

# Run in a process of its own: whoever forks and kills is to stay small and without torch.
_MAKE = (
    "from pathlib import Path; import sys; from tests.support.tiny_runs import *; "
    "export_tiny(Path(sys.argv[1])); make_tiny_shapes(Path(sys.argv[2]))"
)


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the inputs are."""
    parser.add_argument("--artifact", type=Path, help="of the tiny detector; exported if missing")
    parser.add_argument("--data", type=Path, help="of the tiny detector; drawn if missing")


def find_inputs(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    """Return the artifacts and the data set's yaml, made in `folder` unless both were given."""
    if options.artifact is not None and options.data is not None:
        return options.artifact, options.data
    artifact, data = folder / "tiny", folder / "data" / "data.yaml"
    subprocess.run([sys.executable, "-c", _MAKE, artifact, data.parent], check=True)
    return artifact, data

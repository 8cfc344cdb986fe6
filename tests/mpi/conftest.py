"""Data for the artifacts of `tests/device`, which these tests train by several processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from exportloss.demo.dataset import SHAPE_NAMES, make_shapes

DEVICE = Path(__file__).parents[2] / "build" / "device"


@pytest.fixture(scope="session")
def device() -> Path:
    """The folder of artifacts."""
    if not (DEVICE / "expected.json").is_file():
        pytest.fail(f"{DEVICE} holds no artifacts; run `make mpi`", pytrace=False)
    return DEVICE


def make_data(folder: Path, *, seed: int) -> Path:
    """Draw 8 images for training and 2 for validation, of the classes that the artifacts have."""
    recipe = make_shapes(folder, train=8, val=2, size=128, seed=seed)
    recipe.write_text(recipe.read_text().replace(f"  3: {SHAPE_NAMES[3]}\n", ""))
    for labels in folder.rglob("labels/**/*.txt"):
        kept = [line for line in labels.read_text().splitlines() if not line.startswith("3 ")]
        labels.write_text("".join(f"{line}\n" for line in kept))
    return recipe


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four batches."""
    return make_data(tmp_path_factory.mktemp("data") / "shapes", seed=0)


@pytest.fixture(scope="session")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many, but others."""
    return make_data(tmp_path_factory.mktemp("data") / "others", seed=1)

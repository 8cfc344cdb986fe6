"""Files cut off or with a flipped bit: not one is taken for whole."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from exportloss import ArtifactError
from exportloss.runtime.artifact.check import read_artifact
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.artifact.state import load_state
from tests.support.manifests import edit_manifest
from tests.support.messages import mentions
from tests.support.old_folders import unpack

CUTS = 64
FLIPS = 1000
SEED = 7

FILES = {
    "step": ("manifest.json", "train_step.onnx", "eval_step.onnx", "state.safetensors"),
    "ort": (
        *("manifest.json", "training_model.onnx", "eval_model.onnx", "optimizer_model.onnx"),
        "checkpoint",
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Small artifacts of both kinds in the current format, a state, a model with a checksum."""
    folder = unpack("0.1", tmp_path_factory.mktemp("damage"))
    for kind in FILES:
        edit_manifest(folder / kind, format="exportloss/3")
    model = (folder / "step" / "eval_step.onnx").read_bytes()
    (folder / "best.onnx").write_bytes(add_model_checksum(model))
    return folder


def count_accepted(path: Path, read: Callable[[], object]) -> tuple[int, int]:
    """Damage a file in every way; return how many truncations and flips were not noticed."""
    whole = path.read_bytes()
    read()

    def accepts(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            read()
        except ArtifactError:
            return False
        return True

    moments = random.Random(SEED)
    cuts = sum(accepts(whole[: len(whole) * part // CUTS]) for part in range(CUTS))
    flips = 0
    for bit in (moments.randrange(8 * len(whole)) for _ in range(FLIPS)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        flips += accepts(damaged)
    path.write_bytes(whole)
    return cuts, flips


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in FILES for name in FILES[kind]])
def test_no_damage_to_an_artifact_is_accepted(folders, kind, name):
    folder = folders / kind
    assert count_accepted(folder / name, lambda: read_artifact(folder)) == (0, 0)


def test_no_damage_to_a_saved_state_is_accepted(folders):
    path = folders / "state.safetensors"
    assert count_accepted(path, lambda: load_state(path)) == (0, 0)


def test_no_damage_to_a_detector_with_a_checksum_is_accepted(folders):
    path = folders / "best.onnx"
    assert count_accepted(path, lambda: read_onnx(path)) == (0, 0)


def test_no_flipped_bit_hides_a_checksum(folders):
    path = folders / "best.onnx"
    whole = path.read_bytes()
    checksum = len(whole) - len((folders / "step" / "eval_step.onnx").read_bytes())
    for bit in range(8 * checksum):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"sha256|ONNX"):
            read_onnx(path)
    path.write_bytes(whole)


def test_damage_to_a_file_without_checksum_of_an_old_folder_is_named(folders, tmp_path):
    """Folders of 0.1 have hashes of their files, only none of the manifest."""
    folder = unpack("0.1", tmp_path) / "step"
    path = folder / "train_step.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ArtifactError, match=mentions(path, "damaged")):
        read_artifact(folder)
    shutil.rmtree(folder)

"""Folders of the loss alone: which graphs they have, and that all of them fit the manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportloss import ArtifactError, ExportError
from exportloss.export import export_loss
from exportloss.export.loss.buckets import choose_buckets
from exportloss.runtime import LossSession
from exportloss.runtime.artifact.check import read_artifact
from exportloss.runtime.artifact.manifest import Manifest, check_tiers, describe_file
from tests.support.graphs.small_losses import LAYOUTS, MAX_TARGETS, export_small_loss
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_loss


@pytest.fixture
def folder(small_losses, tmp_path) -> Path:
    """A copy of an artifact, to be damaged."""
    return shutil.copytree(small_losses["permuted"], tmp_path / "loss")


@pytest.mark.parametrize("name", ["loss-2.onnx", "loss-5.onnx", "loss.onnx"])
def test_damaged_and_missing_graphs_are_refused(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=mentions(path, "damaged")):
        LossSession.open(folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=mentions(path, "missing")):
        LossSession.open(folder)
    files = {other: file for other, file in read_values(folder)["files"].items() if other != name}
    edit_manifest(folder, files=files)
    with pytest.raises(ArtifactError, match=mentions(folder, "manifest", name)):
        LossSession.open(folder)


def rewrite(folder: Path, name: str, change) -> Path:
    """Change a graph, and make the manifest say so."""
    graph = ir.load(folder / name)
    change(graph.graph)
    ir.save(graph, folder / name)
    files = read_values(folder)["files"] | {name: vars(describe_file(folder / name))}
    return edit_manifest(folder, files=files)


def test_a_graph_with_another_number_of_rows_is_refused(folder):
    shutil.copyfile(folder / "loss-5.onnx", folder / "loss-2.onnx")
    rewrite(folder, "loss-2.onnx", lambda graph: None)
    with pytest.raises(ArtifactError, match=mentions("loss-2.onnx", "'targets'", (5, 6), (2, 6))):
        read_artifact(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("change", [{"batch_size": 3}, {"names": ["a"]}, {"image_size": [64, 96]}])
def test_a_manifest_of_other_sizes_is_refused(small_losses, tmp_path, layout, change):
    assert read_artifact(small_losses[layout]).loss_layout == layout
    folder = edit_manifest(shutil.copytree(small_losses[layout], tmp_path / "loss"), **change)
    with pytest.raises(
        ArtifactError, match=r"loss[-\d]*\.onnx.*'(predictions|features|weight|bias)_0'"
    ):
        read_artifact(folder)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("weight_1", (16, 5, 1, 1), (16, 4, 1, 1)),
        ("features_1", (2, 5, 4, 4), (2, 4, 4, 4)),
        ("bias_0", (15,), (16,)),
        ("features_0", (2, "channels", 8, 8), "loss.onnx"),
        ("weight_gradient_0", (16, 3), (16, 3, 1, 1)),
    ],
)
def test_features_and_head_belong_together(small_losses, tmp_path, name, shape, expected):
    def change(graph):
        value = next(v for v in (*graph.inputs, *graph.outputs) if v.name == name)
        value.shape = ir.Shape(shape)

    folder = shutil.copytree(small_losses["head-input"], tmp_path / "loss")
    with pytest.raises(ArtifactError, match=mentions("loss.onnx", f"'{name}'", shape, expected)):
        read_artifact(rewrite(folder, "loss.onnx", change))


def test_strides_below_a_pixel_are_refused(folder):
    with pytest.raises(ArtifactError, match=mentions(folder, "layout", "damaged")):
        read_artifact(edit_manifest(folder, strides=[0.5, 16]))


def test_gradients_that_a_graph_lacks_are_missed(small_losses, tmp_path):
    folder = shutil.copytree(small_losses["head-input"], tmp_path / "loss")
    rewrite(folder, "loss-2.onnx", lambda graph: graph.outputs.pop())
    with pytest.raises(ArtifactError, match=mentions("loss-2.onnx", "'bias_gradient_1'")):
        read_artifact(folder)


@pytest.mark.parametrize(
    ("max_targets", "tiers"),
    [
        *((1, ()), (47, ()), (48, (32,)), (64, (32,)), (300, (32, 64, 128))),
        (4000, (32, 64, 128, 256, 512, 1024, 2048)),
    ],
)
def test_tiers_are_chosen(max_targets, tiers):
    assert choose_buckets(max_targets) == tiers


@given(st.data())
def test_a_batch_gets_few_padded_rows(data):
    max_targets = data.draw(st.integers(1, 1 << 20))
    tiers = choose_buckets(max_targets)
    check_tiers(tiers, max_targets)
    rows = data.draw(st.integers(0, max_targets))
    size = min(size for size in (*tiers, max_targets) if size >= rows)
    assert size < max(3 * rows, 48)


@pytest.mark.parametrize("tiers", [(0,), (5, 2), (2, 2), (2, 9), tuple(range(1, 101))])
def test_tiers_that_cannot_be_are_refused_before_anything_is_traced(tmp_path, monkeypatch, tiers):
    monkeypatch.setattr("exportloss.export.loss.export.to_onnx", None)
    max_targets = MAX_TARGETS if len(tiers) < 64 else 300
    with pytest.raises(ExportError, match=mentions("tiers", str(tiers)[:6], max_targets)):
        export_small_loss(tmp_path / "loss", tiers=tiers, max_targets=max_targets)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("tiers", [[5, 2], [0], [9], ["a"], 2])
def test_a_manifest_of_impossible_tiers_is_refused(folder, tiers):
    edit_manifest(folder, tiers=tiers)
    with pytest.raises(ArtifactError, match=mentions(folder / "manifest.json", "damaged")):
        Manifest.read(folder)


def test_tiers_may_be_left_to_the_export(tmp_path):
    sizes = {"image_size": (IMAGE, IMAGE), "batch_size": 1, "max_targets": 48}
    manifest = export_loss(make_loss(), tmp_path / "loss", **sizes)
    assert manifest.tiers == Manifest.read(tmp_path / "loss").tiers == (32,)
    assert sorted(manifest.files) == ["loss-32.onnx", "loss.onnx"]

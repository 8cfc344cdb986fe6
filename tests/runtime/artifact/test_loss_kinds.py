"""The table of losses: what manifests, results and graphs take from a row."""

from __future__ import annotations

import dataclasses

import pytest

from exportloss import LossConfig, TaskAlignedConfig
from exportloss.loss_kinds import LOSS_KINDS, STATE_NAMES, from_tagged, tagged
from exportloss.runtime import Manifest
from exportloss.runtime.artifact.loss_signature import loss_inputs, loss_outputs
from exportloss.runtime.training.results import columns
from tests.support.manifests import edit_manifest, read_values
from tests.support.old_folders import unpack

ANCHORS = (((10.0, 13.0), (16.0, 30.0)),) * 2


def manifest(settings: LossConfig | TaskAlignedConfig) -> Manifest:
    has_anchors = LOSS_KINDS[settings.kind].has_anchors
    return Manifest(
        kind="loss",
        names=("a", "b", "c"),
        anchors=ANCHORS if has_anchors else (),
        strides=(8.0, 16.0),
        image_size=(64, 96),
        batch_size=2,
        max_targets=4,
        loss=settings,
        loss_layout=LOSS_KINDS[settings.kind].layouts[0],
        opset=18,
    )


@pytest.mark.parametrize("name", LOSS_KINDS)
def test_rows_agree_with_their_settings(name):
    row = LOSS_KINDS[name]
    assert row.name == name == row.settings.kind
    fields = {field.name for field in dataclasses.fields(row.settings)}
    assert set(row.terms) <= fields  # a gain per term
    assert "kind" not in fields
    assert set(row.initial_state(3)) <= set(STATE_NAMES)


def test_no_two_kinds_have_the_same_columns():
    """`results.csv` does not name the kind."""
    found = [columns(row.terms) for row in LOSS_KINDS.values()]
    assert len(set(map(frozenset, found))) == len(found)


@pytest.mark.parametrize(
    ("settings", "number", "kind"),
    [(LossConfig(box=0.1), 2, None), (TaskAlignedConfig(reg_max=8), 3, "task-aligned")],
)
def test_a_manifest_comes_back(tmp_path, settings, number, kind):
    written = manifest(settings)
    (tmp_path / "manifest.json").write_text(written.to_json())
    assert Manifest.read(tmp_path) == written
    values = read_values(tmp_path)
    assert (values["format"], values["loss"].get("kind")) == (f"exportloss/{number}", kind)
    assert from_tagged(tagged(settings)) == (settings.kind, dataclasses.asdict(settings))


@pytest.mark.parametrize("number", [1, 2])
def test_earlier_manifests_have_yolov5s_loss(tmp_path, number):
    folder = unpack("0.1", tmp_path) / "step"
    edit_manifest(folder, format=f"exportloss/{number}")
    assert "kind" not in read_values(folder)["loss"]
    found = Manifest.read(folder)
    assert isinstance(found.loss, LossConfig) and len(found.anchors) == len(found.strides)
    assert list(found.loss_state) == ["balance"]


def test_graphs_have_the_predictions_and_the_state_of_their_loss():
    yolo, free = manifest(LossConfig()), manifest(TaskAlignedConfig(reg_max=8))
    assert loss_inputs(yolo)["predictions_0"].shape == (2, 2, 8, 12, 5 + 3)
    assert loss_inputs(free)["predictions_1"].shape == (2, 4 * 8 + 3, 4, 6)
    assert list(loss_outputs(yolo)) == ["loss", "items", "new_balance"]
    assert list(loss_outputs(free)) == ["loss", "items"]

"""Checkpoints that are no YOLOv5 detector's: what they are is said."""

from __future__ import annotations

import os
import sys
import types

import pytest
import torch
from torch import nn

from exportloss.errors import ArtifactError
from exportloss.models import read_checkpoint
from tests.support.messages import mentions


@pytest.mark.parametrize(
    ("module", "name", "told"),
    [
        ("ultralytics.nn.tasks", "DetectionModel", "YOLOv8"),
        ("models.yolo", "SegmentationModel", "segmentation"),
        ("models.yolo", "ClassificationModel", "classifier"),
    ],
)
def test_checkpoints_of_other_kinds_are_named(tmp_path, monkeypatch, module, name, told):
    parts = module.split(".")
    for index in range(len(parts)):
        package = types.ModuleType(".".join(parts[: index + 1]))
        monkeypatch.setitem(sys.modules, package.__name__, package)
    kind = type(name, (nn.Module,), {"__module__": module})
    setattr(sys.modules[module], name, kind)
    # Beside its class such a file names a function of a library, as the official ones do.
    torch.save({"model": kind(), "made": os.getcwd}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=mentions("a.pt", told, "executed")):
        read_checkpoint(tmp_path / "a.pt")

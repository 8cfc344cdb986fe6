"""`TaskAlignedConfig` and the constructor of `TaskAlignedLoss`: ranges and hyperparameter files."""

from __future__ import annotations

import pytest
import torch

import exportloss
from exportloss import ConfigError, TaskAlignedConfig, TaskAlignedLoss
from exportloss.runtime.training.hyp import read_hyp
from tests.support.messages import mentions


def test_hyperparameter_file(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text("lr0: 0.01\nmosaic: 1.0\nbox: 7.0\ndfl: 2\ntopk2: 1\nprofile: yolov9\n")
    config = TaskAlignedConfig.from_yaml(path)
    assert config == TaskAlignedConfig(box=7.0, dfl=2, topk2=1, profile="yolov9")
    assert (config.cls, config.topk, config.reg_max) == (0.5, 10, 16)


def test_unknown_key_suggests_the_near_one(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text("df: 1.5\nobj: 1.0\n")
    with pytest.raises(ConfigError, match=mentions(path, "'df'", "'dfl'", "'obj'")):
        TaskAlignedConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"box": -1}, ("box", -1, ">= 0")),
        ({"cls": float("nan")}, ("cls", "nan", "finite")),
        ({"dfl": "much"}, ("dfl", "'much'", "finite")),
        ({"dfl": True}, ("dfl", True, "finite")),
        ({"reg_max": 0}, ("reg_max", 0, "whole number >= 1")),
        ({"topk": 1.5}, ("topk", 1.5, "whole number >= 1")),
        ({"topk2": True}, ("topk2", True, "whole number >= 1")),
        ({"topk2": 11}, ("topk2 is 11", "topk, 10", "topk2 <= topk")),
        ({"topk": 3, "topk2": 4}, ("topk2 is 4", "topk, 3", "topk2 <= topk")),
        ({"profile": "8.5"}, ("profile", "'8.5'", "8.4", "8.3", "yolov9")),
    ],
)
def test_values_out_of_range_are_refused(values, told):
    with pytest.raises(ConfigError, match=mentions(*told)):
        TaskAlignedConfig(**values)
    with pytest.raises(ConfigError, match=mentions("settings", *told)):
        TaskAlignedConfig.from_mapping(values, source="settings")


def test_without_topk2_every_selected_cell_is_kept(tmp_path):
    assert TaskAlignedConfig(topk=3).topk2 == 10
    path = tmp_path / "hyp.yaml"
    path.write_text("topk2: 20\ntopk: 30\n")
    assert read_hyp(path, loss=TaskAlignedConfig) == {"topk2": 20, "topk": 30}


@pytest.mark.parametrize(
    "strides", [(8,), (8, 16, 32, 64, 128, 256), (16, 8), (8, 8), (8, 16.5), (0, 8), 8]
)
def test_strides_that_cannot_be_are_refused(strides):
    with pytest.raises(ConfigError, match=mentions("strides")):
        TaskAlignedLoss(strides, 3)


def test_maps_that_do_not_fit_are_refused():
    loss, targets = TaskAlignedLoss(torch.tensor([8.0, 16.0]), 3), torch.zeros(4, 6)
    fine, coarse = torch.zeros(1, 67, 4, 4), torch.zeros(1, 67, 2, 2)
    assert torch.isfinite(loss([fine, coarse], targets).loss)
    for maps, told in (
        ([fine], (1, 2)),
        ([fine, coarse[:, 1:]], ("map 1", (1, 66, 2, 2), 67)),
        ([fine, fine], ("map 1", 16, (64, 64), (32, 32))),
        ([fine[0], coarse], ("map 0", (67, 4, 4))),
    ):
        with pytest.raises(ConfigError, match=mentions(*told)):
            loss(maps, targets)


def test_what_a_training_step_asks_of_a_loss():
    loss = TaskAlignedLoss((8, 16), 3)
    assert (loss.kind, loss.terms) == ("task-aligned", ("box", "cls", "dfl"))
    assert dict(loss.initial_state) == dict(loss.settings) == {}
    maps = [torch.zeros(1, 67, 4, 4), torch.zeros(1, 67, 2, 2)]
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5]])
    for one in (loss, loss.reference()):
        result = one(maps, targets, loss.initial_state, loss.settings)
        assert result.terms.shape == (3,) and dict(result.state) == {}
        assert not result.terms.requires_grad


def test_public_names():
    assert exportloss.TaskAlignedLoss is TaskAlignedLoss
    assert {"TaskAlignedLoss", "TaskAlignedConfig"} <= set(exportloss.__all__)

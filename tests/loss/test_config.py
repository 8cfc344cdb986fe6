"""`LossConfig`: ranges, contradictions and hyperparameter files."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportloss import ConfigError, LossConfig
from tests.support.messages import mentions

HYP = """
lr0: 0.01  # training keys are skipped
momentum: 0.937
mosaic: 1.0
box: 0.07
fl_gamma: 1.5
"""


def test_hyperparameter_file(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text(HYP)
    config = LossConfig.from_yaml(path)
    assert config == LossConfig(box=0.07, fl_gamma=1.5)
    assert config.effective_criterion == "focal"


def test_unknown_key_suggests_the_near_one(tmp_path):
    path = tmp_path / "hyp.yaml"
    path.write_text("boxx: 0.05\nfl_gama: 1.5\n")
    unknown = ("'boxx'", "'box'", "'fl_gama'", "'fl_gamma'")
    with pytest.raises(ConfigError, match=mentions(path, *unknown)):
        LossConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- box", ("`key: value`", "list")),
        ("box: [", (1, "YAML")),
        ("box: large", ("box", "'large'", "finite")),
        ("box: .nan", ("box", "nan", "finite")),
        ("autobalance: 1", ("autobalance", 1, "true or false")),
    ],
)
def test_bad_file(tmp_path, text, told):
    path = tmp_path / "hyp.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=mentions(path, *told)):
        LossConfig.from_yaml(path)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=mentions(tmp_path / "nowhere.yaml")):
        LossConfig.from_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"box": -1}, ("box", -1, ">= 0")),
        ({"cls_pw": 0}, ("cls_pw", "> 0")),
        ({"cls_pw": -2}, ("cls_pw", -2, "> 0")),
        ({"anchor_t": 1}, ("anchor_t", "> 1")),
        ({"anchor_t": 0.5}, ("anchor_t", 0.5, "> 1")),
        ({"label_smoothing": 1}, ("label_smoothing", "[0, 1)")),
        ({"label_smoothing": 1.5}, ("label_smoothing", 1.5, "[0, 1)")),
        ({"gr": 1.1}, ("gr", 1.1, "[0, 1]")),
        ({"focal_alpha": 2}, ("focal_alpha", 2, "[0, 1]")),
        ({"criterion": "mse"}, ("criterion", "'mse'", "'bce'", "'focal'", "'qfocal'", "'blur'")),
        ({"criterion": "qfocal"}, ("qfocal", "fl_gamma", "> 0")),
        ({"criterion": "blur", "fl_gamma": 7}, ("blur", "fl_gamma", 7)),
        ({"box": True}, ("box", True, "finite")),
        ({"box": float("inf")}, ("box", "inf", "finite")),
    ],
)
def test_out_of_range(values, told):
    with pytest.raises(ConfigError, match=mentions(*told)):
        LossConfig(**values)


@given(
    gains=st.tuples(*[st.decimals(0, 10, places=4)] * 3),
    levels=st.integers(1, 5),
    num_classes=st.integers(1, 400),
    side=st.integers(1, 60),
)
def test_scaled_gains_lead_back_to_what_was_written(gains, levels, num_classes, side):
    box, cls, obj = map(float, gains)
    sizes = {"levels": levels, "num_classes": num_classes, "image_size": (32, 32 * side)}
    scaled = LossConfig(box=box, cls=cls, obj=obj, anchor_t=3).scaled(**sizes)
    assert scaled.unscaled(**sizes).scaled(**sizes) == scaled
    stock = LossConfig().scaled(**sizes)
    assert stock.unscaled(**sizes) == LossConfig()


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LossConfig().box = 1.0  # type: ignore[misc]

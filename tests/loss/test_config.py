"""`LossConfig`: ranges, contradictions and hyperparameter files."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportloss import ConfigError, LossConfig

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
    with pytest.raises(ConfigError, match=r"'boxx' \(did you mean 'box'\?\), 'fl_gama' \(did you"):
        LossConfig.from_yaml(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- box", "expected `key: value` lines"),
        ("box: [", "not readable as YAML"),
        ("box: large", "box is 'large'; expected a finite number"),
        ("box: .nan", "box is nan; expected a finite number"),
        ("autobalance: 1", "autobalance is 1; expected true or false"),
    ],
)
def test_bad_file(tmp_path, text, message):
    path = tmp_path / "hyp.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        LossConfig.from_yaml(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        LossConfig.from_yaml(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"box": -1}, "box is -1; expected a number >= 0"),
        ({"cls_pw": 0}, "cls_pw is 0; expected a number > 0"),
        ({"anchor_t": 1}, "anchor_t is 1; expected a number > 1"),
        ({"label_smoothing": 1}, r"expected a number in \[0, 1\)"),
        ({"gr": 1.1}, r"expected a number in \[0, 1\]"),
        ({"focal_alpha": 2}, r"expected a number in \[0, 1\]"),
        ({"criterion": "mse"}, "criterion is 'mse'; expected one of"),
        ({"criterion": "qfocal"}, "needs fl_gamma > 0"),
        ({"criterion": "blur", "fl_gamma": 1}, "takes no fl_gamma"),
        ({"box": True}, "box is True; expected a finite number"),
        ({"box": float("inf")}, "expected a finite number"),
    ],
)
def test_out_of_range(values, message):
    with pytest.raises(ConfigError, match=message):
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

"""The keys of YOLOv5's hyperparameter files: each has one owner."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from exportloss import ConfigError, TaskAlignedConfig
from exportloss.config import LossConfig
from exportloss.hyp_keys import TRAINING_KEYS, UNUSED_KEYS
from exportloss.loss_kinds import LOSS_KINDS
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.training.hyp import TrainingConfig, read_hyp
from tests.support.messages import mentions


def names(config: type) -> set[str]:
    return {field.name for field in dataclasses.fields(config)}


def test_the_training_keys_are_those_that_training_reads():
    assert names(TrainingConfig) == TRAINING_KEYS - UNUSED_KEYS
    assert not names(TrainingConfig) & UNUSED_KEYS


def test_every_augmentation_key_reaches_an_augmentation():
    schedule = {"lr0", "lrf", "momentum", "weight_decay"}
    schedule |= {"warmup_epochs", "warmup_momentum", "warmup_bias_lr"}
    assert names(Augmentation) == names(TrainingConfig) - schedule


def test_no_key_is_both_the_loss_and_the_training():
    assert not names(LossConfig) & TRAINING_KEYS


@pytest.mark.parametrize("kind", LOSS_KINDS)
def test_the_file_of_a_kind_of_loss_has_its_defaults(kind, tmp_path, monkeypatch):
    settings = LOSS_KINDS[kind].settings
    read = read_hyp(kind, loss=settings)
    assert settings.from_mapping(read) == settings()
    assert TrainingConfig.from_mapping(read, loss=settings) == TrainingConfig()
    assert names(TrainingConfig) < read.keys()
    assert set(LOSS_KINDS[kind].terms) < read.keys()
    monkeypatch.chdir(tmp_path)
    Path(kind).write_text("lr0: 0.5\n")  # a file of the user's goes before
    assert read_hyp(kind, loss=settings) == {"lr0": 0.5}


def test_the_page_of_other_detectors_shows_the_file():
    page = (Path(__file__).parents[3] / "docs" / "own-detector.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert shown == read_hyp("task-aligned", loss=TaskAlignedConfig)
    with pytest.raises(ConfigError, match=mentions("'dfl'")):  # no key of YOLOv5's
        read_hyp("task-aligned")


def test_a_file_that_is_missing_is_told_with_the_names():
    with pytest.raises(ConfigError, match=mentions("nothing.yaml", "task-aligned", "yolov5")):
        read_hyp("nothing.yaml")

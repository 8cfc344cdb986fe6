"""The keys of YOLOv5's hyperparameter files: each has one owner."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from exportloss import ConfigError, TaskAlignedConfig
from exportloss.config import LossConfig
from exportloss.hyp_keys import TRAINING_KEYS, UNUSED_KEYS
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.training.hyp import TrainingConfig, every_key
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


def test_the_page_of_other_detectors_has_the_defaults_of_their_recipe():
    page = (Path(__file__).parents[3] / "docs" / "own-detector.md").read_text(encoding="utf-8")
    shown = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert shown == every_key(TrainingConfig(), TaskAlignedConfig(), {})
    read = TrainingConfig.from_mapping(shown, loss=TaskAlignedConfig)
    assert (read, TaskAlignedConfig.from_mapping(shown)) == (TrainingConfig(), TaskAlignedConfig())
    with pytest.raises(ConfigError, match=mentions("'dfl'")):  # no key of YOLOv5's
        TrainingConfig.from_mapping(shown)

"""The keys of YOLOv5's hyperparameter files: each has one owner."""

import dataclasses

from exportloss.config import LossConfig
from exportloss.hyp_keys import TRAINING_KEYS, UNUSED_KEYS
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.training.hyp import TrainingConfig


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

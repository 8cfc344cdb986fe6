"""The last, incomplete batch of an epoch: filled, so that every epoch has every image."""

from __future__ import annotations

import dataclasses
import re
import shutil

import numpy as np
import pytest
import yaml

from exportloss.cli import main
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from tests.support.messages import mentions
from tests.support.training_runs import EPOCHS, Recorder, assert_same_run, make_run


@pytest.fixture
def seven(tiny_shapes, tmp_path):
    """The tiny shapes with seven training images, for batches of two."""
    root = shutil.copytree(tiny_shapes.parent, tmp_path / "seven")
    min((root / "images/train").iterdir()).unlink()
    return root / "data.yaml"


def open_images(recipe, count=7):
    dataset = Dataset.open(read_data_yaml(recipe), "train")
    return dataclasses.replace(
        dataset, images=dataset.images[:count], labels=dataset.labels[:count]
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 6, 7, 9, 16])
@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_epoch_has_every_image(seven, batch_size, epoch):
    dataset = open_images(seven)
    augment = Augmentation(fliplr=0.5)
    batches = Batches(dataset, batch_size, (64, 64), shuffle=True, augment=augment, seed=4)
    seen = list(batches.epoch(epoch))
    assert len(seen) == len(batches) == -(-7 // batch_size)
    assert all(len(batch.images) == batch_size for batch in seen)
    order = [path for batch in seen for path in batch.paths]
    assert sorted(order[:7]) == sorted(dataset.images)
    # The batch is filled from the start of the same order.
    assert order[7:] == (order[:7] * batch_size)[: len(order) - 7]
    real = [path for batch in seen for path in batch.paths[: batch.count]]
    assert real == order[:7]


def test_what_fills_a_batch_is_the_same_on_any_number_of_threads(seven):
    dataset = open_images(seven)
    options = {"shuffle": True, "augment": Augmentation(fliplr=0.5, mosaic=1, hsv_v=0.5)}
    one, five = (
        list(Batches(dataset, 3, (64, 64), workers=workers, **options).epoch(2))[-1]
        for workers in (1, 5)
    )
    assert one.count == 1
    np.testing.assert_array_equal(one.images, five.images)
    np.testing.assert_array_equal(one.targets, five.targets)
    first = next(Batches(dataset, 3, (64, 64), **options).epoch(2))
    assert one.paths[1:] == first.paths[:2]
    assert (one.images[1] != first.images[0]).any()  # augmented another time


@pytest.fixture
def new_run(seven, tmp_path):
    """Seven images in batches of two, where eight were four batches."""

    def new():
        run = make_run(seven, tmp_path / "runs")
        assert (len(run.train_batches.dataset), len(run.train_batches)) == (7, 4)
        return run

    return new


@pytest.mark.parametrize("stop", [(0, 4), (1, 3), (2, 4)])
def test_a_resumed_run_with_a_filled_batch_is_the_same_run(tiny_artifact, new_run, stop):
    whole, run = new_run(), new_run()
    whole.train(TrainSession.open(tiny_artifact, threads=1))
    with pytest.raises(KeyboardInterrupt):
        run.train(TrainSession.open(tiny_artifact, threads=1), reporter=Recorder(stop))
    run.train(TrainSession.open(tiny_artifact, threads=2), resume=True)
    assert_same_run(run.folder, whole.folder)


def test_fewer_images_than_a_batch_train(tiny_artifact, seven, new_run):
    one = Batches(open_images(seven, 1), 2, (64, 64), shuffle=True)
    run = new_run()
    schedule = dataclasses.replace(run.schedule, batches=1)
    result = run.but(train_batches=one, schedule=schedule).train(
        TrainSession.open(tiny_artifact, threads=1)
    )
    assert len(result.epochs) == result.updates == EPOCHS


def train(*arguments):
    options = ("--threads", "1", "--noplots") + (
        () if "--resume" in arguments else ("--nominal-batch", "2")
    )
    return main(["train", *options, *map(str, arguments)])


def updates(folder, batches, epochs):
    state = load_state(folder.last)
    schedule = Schedule(epochs=epochs, batches=batches, batch_size=2, nominal_batch=2)
    assert schedule.epochs_done(state.updates) == epochs
    return state.updates


def test_the_command_trains_on_all_and_says_how_many_batches(
    tiny_artifact, seven, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert train("--weights", tiny_artifact, "--data", seven, "--epochs", 2) == 0
    assert re.search(mentions("7 images", " 3 ", "2 epochs", "4 batches"), capsys.readouterr().out)
    run = RunFolder(tmp_path / "runs/train/exp")
    assert updates(run, 4, 2) == 8
    assert yaml.safe_load(run.options.read_text())["drop_last"] is False


def test_a_run_of_an_earlier_version_goes_on_as_it_began(
    tiny_artifact, seven, tmp_path, monkeypatch, capsys
):
    """Its options do not have the key; its epochs have a batch less."""
    monkeypatch.chdir(tmp_path)
    assert train("--weights", tiny_artifact, "--data", seven, "--epochs", 2) == 0
    run = RunFolder(tmp_path / "runs/train/exp")
    options = yaml.safe_load(run.options.read_text())
    del options["drop_last"]
    run.options.write_text(yaml.safe_dump(options))
    run.clear()  # as if interrupted in the first epoch
    capsys.readouterr()
    assert train("--resume", run.path) == 0
    printed = capsys.readouterr().out
    assert re.search(mentions("2 epochs", "3 batches"), printed)
    assert re.search(r"\b6 .*\b7 training images", printed)
    assert updates(run, 3, 2) == 6
    # Also from a state between two epochs, and when it is resumed once more.
    assert train("--resume", run.path, "--epochs", 3) == 0
    assert re.search(mentions("3 epochs", "3 batches"), capsys.readouterr().out)
    assert updates(run, 3, 3) == 9
    assert [epoch.epoch for epoch in read_results(run.results)] == [0, 1, 2]
    # What is trained further from it sees every image.
    assert train("--weights", run.path, "--data", seven, "--epochs", 1) == 0
    assert re.search(mentions("1 epochs", "4 batches"), capsys.readouterr().out)

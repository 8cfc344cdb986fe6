"""Training runs some of whose batches are not finite."""

import dataclasses
import re

import numpy as np
import pytest

from exportloss.cli.terminal import Terminal
from exportloss.cli.train.progress import Lines
from exportloss.errors import ConfigError, TrainingError
from exportloss.runtime import TrainSession
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.messages import mentions
from tests.support.training_runs import Recorder, assert_same_run, make_run


@pytest.fixture
def run(tiny_shapes, tmp_path):
    return make_run(tiny_shapes, tmp_path / "runs")


@pytest.fixture
def new_session(tiny_ort_artifact):  # takes images that are NaN; the portable step takes integers
    return lambda: TrainSession.open(tiny_ort_artifact, threads=1)


@pytest.fixture
def session(new_session):
    return new_session()


def spoil(session, *batches):
    """Let the images of these batches be NaN, whenever they come."""
    step, spoilt = session.step, [batch.images for batch in batches]

    def step_on_nan(images, *args, **kwargs):
        if any(np.array_equal(images, other) for other in spoilt):
            images = np.full(images.shape, np.nan, np.float32)
        return step(images, *args, **kwargs)

    session.step = step_on_nan
    return session


def test_skipped_batches_are_counted_and_named(session, run):
    bad = [list(run.train_batches.epoch(1))[index] for index in (0, 2)]
    reporter = Recorder()
    result = run.train(spoil(session, *bad), reporter=reporter, max_skipped=2)
    assert [epoch.skipped for epoch in result.epochs] == [0, 2, 0]
    assert [(epoch, done, paths) for epoch, done, _, paths in reporter.skipped] == [
        (1, 1, bad[0].paths),
        (1, 3, bad[1].paths),
    ]
    assert np.isnan([loss for *_, loss, _ in reporter.skipped]).all()
    assert reporter.batches == [(epoch, done) for epoch in range(3) for done in range(1, 5)]
    assert all(np.isfinite(tensor).all() for tensor in session.state().model.values())
    assert all(np.isfinite(dataclasses.astuple(epoch.train)).all() for epoch in result.epochs)
    assert not run.folder.skipped_batch.exists()


def test_a_resumed_run_that_skips_is_the_same_run(new_session, run):
    """Also where an epoch ends with a gradient that waits for an update that was skipped."""
    run = run.but(schedule=dataclasses.replace(run.schedule, nominal_batch=256))
    assert [step.update for step in run.schedule.steps(1)] == [False, False, False, True]
    bad = list(run.train_batches.epoch(1))[-1]
    whole = run.but(folder=RunFolder(run.folder.path / "whole"))
    result = whole.train(spoil(new_session(), bad))
    assert [epoch.skipped for epoch in result.epochs] == [0, 1, 0]
    with pytest.raises(KeyboardInterrupt):
        run.train(spoil(new_session(), bad), reporter=Recorder((2, 1)))
    run.train(spoil(new_session(), bad), resume=True)
    assert_same_run(run.folder, whole.folder)


def test_too_many_skipped_in_a_row_stop_the_run(session, run):
    bad = list(run.train_batches.epoch(1))[1:3]
    with pytest.raises(
        TrainingError, match=mentions("2 steps", "epoch 1", "batch 3 of 4", "nan")
    ) as info:
        run.train(spoil(session, *bad), max_skipped=2)
    assert all(str(path) in str(info.value) for path in bad[1].paths)
    assert str(run.folder.skipped_batch) in str(info.value)
    with np.load(run.folder.skipped_batch) as kept:
        np.testing.assert_array_equal(kept["images"], bad[1].images)
        np.testing.assert_array_equal(kept["targets"], bad[1].targets)
        assert kept["paths"].tolist() == [str(path) for path in bad[1].paths]
    assert len(read_results(run.folder.results)) == 1
    assert run.schedule.epochs_done(session.resume(run.folder.last).updates) == 1


def test_an_epoch_that_is_skipped_whole_stops_the_run(session, run):
    with pytest.raises(TrainingError, match=mentions("4 steps", "epoch 0", "batch 4 of 4")):
        run.train(spoil(session, *run.train_batches.epoch(0)))
    with pytest.raises(ConfigError, match=r"\bmax_skipped\b.*\b0\b.*\b1\b"):
        run.train(session, max_skipped=0)


def test_the_console_names_what_is_skipped(session, run, capsys):
    bad = list(run.train_batches.epoch(0))[1]
    run.train(spoil(session, bad), reporter=Lines(Terminal(soft_wrap=True), run.schedule))
    _, warning, *epochs = capsys.readouterr().out.splitlines()
    assert re.search(mentions("warning", "epoch 0", "batch 2", "skipped", "nan"), warning)
    assert all(str(path) in warning for path in bad.paths)
    assert ["1 batches skipped" in line for line in epochs] == [True, False, False]

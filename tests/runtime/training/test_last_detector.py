"""`weights/last.onnx`: the detector of the last state, whenever it is there."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from exportloss.errors import ArtifactError
from exportloss.runtime import TrainSession
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.trainer import RunCompleteError
from tests.support.messages import mentions
from tests.support.training_runs import EPOCHS, Recorder, assert_same_run, make_run


@pytest.fixture
def open_session(tiny_artifact):
    return lambda: TrainSession.open(tiny_artifact, threads=1)


@pytest.fixture
def run(tiny_shapes, tmp_path):
    return make_run(tiny_shapes, tmp_path / "runs")


def expected_of(session: TrainSession, images: np.ndarray) -> np.ndarray:
    return session.evaluate(images, [], ema=session.manifest.ema).predictions


def found_by(path, images: np.ndarray) -> np.ndarray:
    return Detector.open(path).predict(images)


def assert_last_is_the_last(folder: RunFolder, session: TrainSession, images: np.ndarray) -> None:
    """Where there is a detector, it is that of the state beside it."""
    session.resume(folder.last)
    np.testing.assert_allclose(
        found_by(folder.last_onnx, images), expected_of(session, images), rtol=1e-4, atol=1e-4
    )


def test_last_onnx_is_the_detector_of_the_last_state(open_session, run):
    session = open_session()
    result = run.train(session)
    images = next(run.val_batches.epoch(0)).images
    trained = expected_of(session, images)
    assert_last_is_the_last(run.folder, open_session(), images)
    np.testing.assert_allclose(
        found_by(run.folder.last_onnx, images), trained, rtol=1e-4, atol=1e-4
    )
    # That of the best is another one, where the best is not the last.
    best = open_session().resume(run.folder.best)
    np.testing.assert_allclose(
        found_by(run.folder.best_onnx, images), expected_of(best, images), rtol=1e-4, atol=1e-4
    )
    same = run.folder.last_onnx.read_bytes() == run.folder.best_onnx.read_bytes()
    assert same == (result.best.epoch == EPOCHS - 1)


@pytest.mark.parametrize("save_each", [True, False])
def test_it_is_written_at_the_end_only(open_session, run, save_each):
    class Watcher(Recorder):
        def epoch_done(self, result, is_best):
            assert not list(run.folder.path.rglob("*.onnx"))

    run.train(open_session(), save_each=save_each, reporter=Watcher())
    assert run.folder.last_onnx.exists()


def test_a_kill_between_the_two_detectors_is_made_good(open_session, run, tiny_shapes, tmp_path):
    whole = make_run(tiny_shapes, tmp_path / "whole")
    whole.train(open_session())
    session = open_session()
    export = session.export_inference

    def stop(path, **options):
        if path == run.folder.best_onnx:
            raise KeyboardInterrupt
        export(path, **options)

    session.export_inference = stop
    with pytest.raises(KeyboardInterrupt):
        run.train(session)
    assert not run.folder.best_onnx.exists()
    run.train(open_session(), resume=True)
    assert_same_run(run.folder, whole.folder)


@pytest.mark.parametrize("stop", [(EPOCHS, 1), (EPOCHS + 1, 2)])
def test_a_run_that_goes_on_keeps_no_detector_of_an_earlier_state(
    open_session, run, tiny_shapes, tmp_path, stop
):
    run.train(open_session())
    images = next(run.val_batches.epoch(0)).images
    longer = run.but(schedule=dataclasses.replace(run.schedule, epochs=EPOCHS + 2))
    with pytest.raises(KeyboardInterrupt):
        longer.train(open_session(), resume=True, reporter=Recorder(stop))
    if stop[0] == EPOCHS:  # no state was written since
        assert_last_is_the_last(run.folder, open_session(), images)
    else:
        assert not run.folder.last_onnx.exists()
    assert run.folder.best_onnx.exists()  # whatever uses the run has its detector all along
    longer.train(open_session(), resume=True)
    assert_last_is_the_last(run.folder, open_session(), images)


def test_a_run_completed_by_an_earlier_version_stays_complete(open_session, run):
    """Its folder has no such file, and is not trained again for it."""
    run.train(open_session())
    run.folder.last_onnx.unlink()
    with pytest.raises(RunCompleteError, match=mentions(run.folder.path, f"{EPOCHS} epochs")):
        run.train(open_session(), resume=True)


def test_one_that_cannot_be_removed_is_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.last_onnx.mkdir(parents=True)
    with pytest.raises(ArtifactError, match=mentions(folder.last_onnx)):
        folder.remove_last_onnx()

"""What a run is worth before its first epoch, and that it never ends with less."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from exportloss.errors import ArtifactError, ConfigError
from exportloss.export import export_train_step
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.validate import validate
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.results import columns, read_results
from exportloss.runtime.training.run_log import append_to_log, read_log, read_start
from tests.support.tiny_detector import make_detector, make_loss
from tests.support.training_runs import Recorder, assert_same_state, make_run

# The first update spoils the detector, and the rates that follow cannot mend it.
RUINOUS = TrainingConfig(lr0=20.0, warmup_bias_lr=20.0)


@pytest.fixture
def open_session(tiny_artifact):
    return lambda: TrainSession.open(tiny_artifact, threads=1)


@pytest.fixture
def run(tiny_shapes, tmp_path):
    return make_run(tiny_shapes, tmp_path / "runs")


@pytest.fixture
def ruined(run):
    return run.but(schedule=dataclasses.replace(run.schedule, config=RUINOUS))


def test_the_start_is_judged_as_epochs_are(open_session, run):
    untrained, reporter = open_session(), Recorder()
    expected = validate(
        lambda batch: untrained.evaluate(batch.images, batch.targets),
        run.val_batches,
        num_classes=3,
    )
    result = run.train(open_session(), reporter=reporter)
    assert result.start is not None
    assert result.start.val == expected.items
    assert result.start.fitness == expected.metrics.fitness
    assert reporter.starts == [result.start]
    assert [epoch.epoch for epoch in read_results(run.folder.results)] == [0, 1, 2]


def test_the_log_has_a_line_for_the_start_and_one_an_epoch(open_session, run):
    result = run.train(open_session())
    lines = [json.loads(line) for line in run.folder.log.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [-1, 0, 1, 2]
    assert all(set(columns(("box", "obj", "cls"))) < set(line) for line in lines)
    for line, epoch in zip(lines, (result.start, *result.epochs), strict=True):
        assert line["metrics/mAP_0.5:0.95"] == epoch.scores.map50_95
        assert (line["fitness"], line["seconds"]) == (epoch.fitness, epoch.seconds)
    assert lines[0]["train/box_loss"] is None
    assert lines[1]["train/box_loss"] == result.epochs[0].train.box


def test_where_no_epoch_is_better_the_best_is_the_start(open_session, ruined):
    untrained, reporter = open_session(), Recorder()
    result = ruined.train(open_session(), reporter=reporter)
    assert result.best == result.start
    assert not any(is_best for _, is_best in reporter.epochs)
    assert all(epoch.loss > result.start.loss for epoch in result.epochs)
    assert_same_state(load_state(ruined.folder.best).model, untrained.state().model)
    batch = next(ruined.val_batches.epoch(0))
    detector = Detector.open(ruined.folder.best_onnx)
    expected = untrained.evaluate(batch.images, batch.targets).predictions
    np.testing.assert_allclose(detector.predict(batch.images), expected, rtol=1e-4, atol=1e-4)


def test_a_resumed_run_still_knows_its_start(open_session, ruined):
    with pytest.raises(KeyboardInterrupt):
        ruined.train(open_session(), reporter=Recorder((1, 2)))
    reporter = Recorder()
    result = ruined.train(open_session(), resume=True, reporter=reporter)
    assert reporter.starts == []
    assert result.best.is_start
    assert result.best == result.start
    assert [entry["epoch"] for entry in read_log(ruined.folder.log)] == [-1, 0, 1, 2]


def test_without_validation_there_is_no_start(open_session, run):
    result = run.but(val_batches=None).train(open_session())
    assert result.start is None
    assert [entry["epoch"] for entry in read_log(run.folder.log)] == [0, 1, 2]


@pytest.mark.parametrize("text", ["{", "[]", '{"epoch": "a"}', '{"loss": 1}', "\xff", "[" * 9999])
def test_a_damaged_log_is_named(tmp_path, text):
    path = tmp_path / "results.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"results\.jsonl"):
        read_log(path)


def test_a_log_of_too_little_is_named(tmp_path, open_session, run):
    start = run.train(open_session()).start
    append_to_log(tmp_path / "a.jsonl", start)
    assert dataclasses.replace(read_start(tmp_path / "a.jsonl"), train=start.train) == start
    (tmp_path / "a.jsonl").write_text('{"epoch": -1, "val/box_loss": 1}')
    with pytest.raises(ArtifactError, match=r"a\.jsonl"):
        read_start(tmp_path / "a.jsonl")
    assert read_start(tmp_path / "none.jsonl") is None


def test_a_model_without_boxes_is_refused_before_it_is_trained(run, tmp_path, monkeypatch):
    export_train_step(
        make_detector(),
        make_loss(),
        tmp_path / "blind",
        image_size=(64, 64),
        batch_size=2,
        max_targets=32,
        names=run.train_batches.dataset.names,
    )
    session = TrainSession.open(tmp_path / "blind", threads=1)
    monkeypatch.setattr(session, "step", None)
    with pytest.raises(ConfigError, match="`decode`"):
        run.train(session)

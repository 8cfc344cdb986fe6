"""Flags of YOLOv5's train.py, with the original's meaning."""

from __future__ import annotations

import pytest
import yaml

from exportloss.cli import main, make_parser
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.optimizers.table import OPTIMIZERS
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.messages import missing
from tests.support.training_runs import Recorder, assert_same_run, assert_same_state, make_run


@pytest.fixture
def open_session(tiny_artifact):
    return lambda: TrainSession.open(tiny_artifact, threads=1)


@pytest.fixture
def new_run(tiny_shapes, tmp_path):
    return lambda: make_run(tiny_shapes, tmp_path / "runs")


def test_noval_judges_the_start_and_the_last_epoch(open_session, new_run):
    plain, run = new_run(), new_run()
    expected = plain.train(open_session())
    result = run.train(open_session(), validate_each=False, patience=1)
    assert [epoch.scores is None for epoch in result.epochs] == [True, True, False]
    assert result.start.scores == expected.start.scores
    assert result.epochs[-1].scores == expected.epochs[-1].scores
    assert result.best in (result.start, result.epochs[-1])
    assert [epoch.val for epoch in read_results(run.folder.results)][:2] == [None, None]
    assert_same_state(load_state(run.folder.last).model, load_state(plain.folder.last).model)


def test_nosave_writes_weights_at_the_end_only(open_session, new_run):
    plain, run = new_run(), new_run()
    plain.train(open_session())

    class Watcher(Recorder):
        def epoch_done(self, result, is_best):
            super().epoch_done(result, is_best)
            assert not list(run.folder.path.rglob("*.safetensors"))

    run.train(open_session(), save_each=False, reporter=Watcher())
    assert_same_run(run.folder, plain.folder)


@pytest.mark.parametrize(("period", "kept"), [(0, []), (1, [0, 1, 2]), (2, [0, 2])])
def test_save_period_keeps_states_on_the_way(open_session, new_run, period, kept):
    run = new_run()
    run.train(open_session(), save_period=period)
    weights = run.folder.last.parent
    assert sorted(path.name for path in weights.glob("epoch*")) == [
        f"epoch{epoch}.safetensors" for epoch in kept
    ]
    if kept:
        last = load_state(run.folder.of_epoch(2))
        assert_same_state(last.model, load_state(run.folder.last).model)
    run.folder.clear()
    assert not list(weights.glob("epoch*"))


def train(*arguments):
    return main([*map(str, ("train", "--epochs", 1, "--threads", 1, *arguments))])


def test_noplots_draws_nothing(tiny_artifact, tiny_shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train("--weights", tiny_artifact, "--data", tiny_shapes, "--noplots") == 0
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".png")]
    assert "mAP50-95" in capsys.readouterr().out  # the table is printed all the same


def test_single_cls_makes_one_class_of_all(tiny_shapes):
    config = read_data_yaml(tiny_shapes, single_class=True)
    assert config.names == ("item",)
    merged, apart = (
        Batches(Dataset.open(each, "train"), 2, (64, 64))
        for each in (config, read_data_yaml(tiny_shapes))
    )
    for one, other in zip(merged.labels, apart.labels, strict=True):
        assert not one[:, 0].any()
        assert (one[:, 1:] == other[:, 1:]).all()
    assert any(rows[:, 0].any() for rows in apart.labels)


def test_a_single_class_keeps_its_name(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [cat]\n")
    assert read_data_yaml(tmp_path / "data.yaml", single_class=True).names == ("cat",)


def test_flags_of_the_export(tiny_shapes, tmp_path, monkeypatch, capsys):
    """A P5 size, rounded up; one class; smoothed labels."""
    monkeypatch.chdir(tmp_path)
    options = ("--data", tiny_shapes, "--batch-size", 2, "--noplots", "--single-cls")
    more = ("--imgsz", 50, "--label-smoothing", 0.1, "--save-period", 1)
    assert train("--weights", "yolov5n", *options, *more) == 0
    run = RunFolder(tmp_path / "runs" / "train" / "exp")
    manifest = Manifest.read(run.artifacts)
    assert (manifest.image_size, manifest.names) == ((64, 64), ("item",))
    assert manifest.loss.label_smoothing == 0.1
    assert yaml.safe_load(run.hyp.read_text())["label_smoothing"] == 0.1
    assert run.of_epoch(0).exists()
    assert not missing(capsys.readouterr().out, (50, 50), (64, 64))
    run.best_onnx.unlink()
    assert main(["train", "--resume", str(run.path), "--noplots"]) == 0
    # Against the artifacts the same flags agree, others do not.
    again = ("--weights", run.path, "--data", tiny_shapes, "--noplots")
    assert train(*again, "--single-cls", "--imgsz", 50, "--label-smoothing", 0.1) == 0
    capsys.readouterr()
    for wrong in (("--single-cls", "--label-smoothing", 0.2), ()):
        assert train(*again, *wrong) == 2
    assert "item" in capsys.readouterr().err


@pytest.mark.parametrize("name", [spec.torch_class for spec in OPTIMIZERS.values()])
def test_optimizers_are_named_as_there(name):
    assert make_parser().parse_args(["train", "--optimizer", name]).optimizer == name.lower()

import csv
import dataclasses
import shutil

import numpy as np
import pytest

from exportloss.errors import ArtifactError, ConfigError, TooManyTargetsError, TrainingError
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.capacity import check_batches, check_capacity, drops_boxes
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.sessions.installation import import_onnxruntime
from exportloss.runtime.sessions.ort_training import OrtTrainSession
from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.results import EpochResult, Scores, best_epoch, read_results
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.trainer import RunCompleteError, is_exhausted
from tests.support.messages import mentions
from tests.support.training_runs import (
    EPOCHS,
    Recorder,
    assert_same_run,
    assert_same_state,
    make_run,
)


@pytest.fixture
def run(tiny_shapes, tmp_path):
    return make_run(tiny_shapes, tmp_path / "runs")


@pytest.fixture
def new_session(tiny_ort_artifact):
    return lambda: TrainSession.open(tiny_ort_artifact, threads=1)


@pytest.fixture
def session(new_session):
    return new_session()


def weights(session):
    return dict(session.state().model)


def test_a_run_leaves_results_states_and_a_detector(session, new_session, run):
    reporter = Recorder()
    result = run.train(session, reporter=reporter)
    assert [epoch.epoch for epoch in result.epochs] == [0, 1, 2]
    assert result.updates == sum(s.update for e in range(EPOCHS) for s in run.schedule.steps(e))
    assert reporter.batches == [(epoch, done) for epoch in range(3) for done in range(1, 5)]
    assert [epoch for epoch, _ in reporter.epochs] == list(result.epochs)

    with run.folder.results.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("epoch", "train/box_loss", "train/obj_loss", "train/cls_loss"),
        *("metrics/precision", "metrics/recall", "metrics/mAP_0.5", "metrics/mAP_0.5:0.95"),
        *("val/box_loss", "val/obj_loss", "val/cls_loss", "x/lr0", "x/lr1", "x/lr2"),
    ]
    # As in YOLOv5 x/lr0 is the biases', which falls in warm-up; the others rise.
    last = run.schedule.steps(2)[-1].lr
    assert [float(rows[2][f"x/lr{group}"]) for group in range(3)] == [last[2], last[0], last[1]]
    for read, known in zip(read_results(run.folder.results), result.epochs, strict=True):
        unwritten = {"left_out": 0, "waiting": 0.0, "seconds": 0.0, "class_map": None}
        assert dataclasses.replace(known, **unwritten) == read

    again = new_session().resume(run.folder.last)
    assert_same_state(weights(again), weights(session))

    assert result.best.fitness == max(epoch.fitness for epoch in result.epochs)
    again.resume(run.folder.best)
    batch = next(run.val_batches.epoch(0))
    expected = again.evaluate(batch.images, batch.targets)
    detector = import_onnxruntime().InferenceSession(str(run.folder.best_onnx))
    (found,) = detector.run(None, {"images": batch.images.astype(np.float32) / 255})
    np.testing.assert_allclose(found, expected.predictions, rtol=1e-4, atol=1e-4)


def test_the_validation_loss_is_that_of_the_saved_state(session, new_session, run):
    result = run.train(session)
    seen = [session.evaluate(batch.images, batch.targets) for batch in run.val_batches]
    for term in ("box", "objectness", "category"):
        mean = np.mean([getattr(evaluation.items, term) for evaluation in seen])
        assert getattr(result.epochs[-1].val, term) == pytest.approx(mean, rel=1e-6)
    untrained = new_session()
    before = np.mean([untrained.evaluate(b.images, b.targets).loss for b in run.val_batches])
    assert np.mean([evaluation.loss for evaluation in seen]) < before


def test_a_moving_average_is_what_is_validated_and_kept(tiny_ort_artifact, run, monkeypatch):
    # YOLOv5's decay begins near 0: in so short a run the average would be the weights themselves.
    monkeypatch.setattr("exportloss.runtime.sessions.session.decay_after", lambda updates: 0.9)
    # The graphs are the same.
    manifest = dataclasses.replace(Manifest.read(tiny_ort_artifact), ema=True)
    session = OrtTrainSession(tiny_ort_artifact, manifest, threads=1)
    result = run.train(session)

    def mean_box(ema):
        batches = run.val_batches.epoch(0)
        return np.mean([session.evaluate(b.images, b.targets, ema=ema).items.box for b in batches])

    assert result.epochs[-1].val.box == pytest.approx(mean_box(True), rel=1e-6)
    assert result.epochs[-1].val.box != pytest.approx(mean_box(False), rel=1e-4)
    session.resume(run.folder.best)
    images = next(run.val_batches.epoch(0)).images
    own, average = (session.evaluate(images, [], ema=ema).predictions for ema in (False, True))
    detector = import_onnxruntime().InferenceSession(str(run.folder.best_onnx))
    (found,) = detector.run(None, {"images": images.astype(np.float32) / 255})
    np.testing.assert_allclose(found, average, rtol=1e-4, atol=1e-4)
    assert not np.allclose(found, own, rtol=1e-4, atol=1e-4)


def test_the_loop_does_what_the_schedule_says(session, new_session, run):
    run.but(val_batches=None).train(session)
    by_hand = new_session()
    for epoch in range(EPOCHS):
        batches = run.train_batches.epoch(epoch)
        for step, batch in zip(run.schedule.steps(epoch), batches, strict=True):
            by_hand.step(
                batch.images,
                batch.targets,
                lr=step.lr,
                momentum=step.momentum,
                weight_decay=run.schedule.weight_decay,
                max_norm=10.0,
                update=step.update,
            )
    assert_same_state(weights(by_hand), weights(session))
    assert {step.update for step in run.schedule.steps(2)} == {True, False}


def test_without_a_validation_split_the_training_loss_decides(session, run):
    result = run.but(val_batches=None).train(session)
    assert result.best.loss == min(sum(dataclasses.astuple(e.train)) for e in result.epochs)
    assert all(epoch.val is None for epoch in read_results(run.folder.results))
    assert ",,,," in run.folder.results.read_text()


@pytest.fixture(scope="module")
def uninterrupted(tiny_ort_artifact, tiny_shapes, tmp_path_factory):
    run = make_run(tiny_shapes, tmp_path_factory.mktemp("runs"))
    run.train(TrainSession.open(tiny_ort_artifact, threads=1))
    return run.folder


@pytest.mark.parametrize("stop", [(0, 2), (1, 1), (2, 3)])
def test_a_resumed_run_is_the_same_run(new_session, run, uninterrupted, stop):
    with pytest.raises(KeyboardInterrupt):
        run.train(new_session(), reporter=Recorder(stop))
    reporter = Recorder()
    run.train(new_session(), resume=True, reporter=reporter)
    assert reporter.batches[0] == (stop[0], 1)
    assert_same_run(run.folder, uninterrupted)


def test_a_crash_between_the_files_of_an_epoch_does_no_harm(
    new_session, run, uninterrupted, monkeypatch
):
    session, saved = new_session(), []
    save = session.save

    def crash(path):
        if saved.count(run.folder.last) == 1 and path == run.folder.last:
            raise KeyboardInterrupt
        save(path)
        saved.append(path)

    monkeypatch.setattr(session, "save", crash)
    with pytest.raises(KeyboardInterrupt):
        run.train(session)
    assert len(read_results(run.folder.results)) == 2  # one more than the last state knows
    run.train(new_session(), resume=True)
    assert_same_run(run.folder, uninterrupted)


def test_what_cannot_be_resumed(session, run, uninterrupted, tmp_path):
    complete = run.but(folder=RunFolder(shutil.copytree(uninterrupted.path, tmp_path / "copy")))
    with pytest.raises(RunCompleteError, match=mentions(complete.folder.path, "3 epochs")):
        complete.train(session, resume=True)
    other = dataclasses.replace(run.schedule, nominal_batch=6)
    updates = load_state(complete.folder.last).updates
    with pytest.raises(
        ConfigError, match=mentions(complete.folder.last, f"{updates} updates", "epochs")
    ):
        complete.but(schedule=other).train(session, resume=True)
    complete.folder.last.write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=mentions(complete.folder.last)):
        complete.train(session, resume=True)
    with pytest.raises(ConfigError, match=f"{updates} updates"):
        run.train(session.resume(uninterrupted.last))


def test_a_loss_that_is_not_finite_and_not_skipped_stops_the_run(session, run, monkeypatch):
    step, calls = session.step, []

    def fail(*args, **kwargs):
        calls.append(args)
        result = step(*args, **kwargs)
        return result if len(calls) < 6 else dataclasses.replace(result, loss=float("nan"))

    monkeypatch.setattr(session, "step", fail)
    with pytest.raises(TrainingError, match=mentions("nan", "epoch 1", "batch 2 of 4")) as caught:
        run.train(session)
    batch = list(run.train_batches.epoch(1))[1]
    assert all(str(path) in str(caught.value) for path in batch.paths)
    assert len(calls) == 7  # the next step is begun before a result is looked at
    assert len(read_results(run.folder.results)) == 1
    session.resume(run.folder.last)
    assert run.schedule.epochs_done(session.state().updates) == 1


def test_too_many_boxes_are_refused_before_the_first_step(session, run, monkeypatch):
    counts = sorted(map(len, run.train_batches.labels))
    fullest = counts[-1] + counts[-2]
    check_capacity(run.train_batches, fullest)
    with pytest.raises(TooManyTargetsError, match=rf"\b{fullest}\b.*\b{fullest - 1}\b"):
        check_capacity(run.train_batches, fullest - 1)
    check_capacity(run.train_batches, 1, "keep-largest")
    session.manifest = dataclasses.replace(session.manifest, max_targets=fullest - 1)
    monkeypatch.setattr(session, "step", None)
    with pytest.raises(TooManyTargetsError, match=rf"\b{fullest}\b.*\b{fullest - 1}\b"):
        run.train(session)


def test_mosaics_lose_boxes_unless_that_is_forbidden(run):
    """With the bound that chance cannot pass: any image can be among the others."""
    counts = sorted(map(len, run.train_batches.labels))
    plain = counts[-1] + counts[-2]
    for augment, others in ((Augmentation(mosaic=0.5), 3), (Augmentation(mosaic=1, mixup=1), 7)):
        mosaics = Batches(run.train_batches.dataset, 2, (64, 64), augment=augment)
        check_capacity(mosaics, 1)
        check_capacity(mosaics, 1, "keep-largest")
        fullest = plain + 2 * others * counts[-1]
        check_capacity(mosaics, fullest, "raise")
        with pytest.raises(
            TooManyTargetsError, match=mentions(f"mosaics of {others + 1}", f" {fullest} ")
        ):
            check_capacity(mosaics, fullest - 1, "raise")
        assert drops_boxes(mosaics, "auto")
        assert not drops_boxes(mosaics, "raise")
    assert not drops_boxes(run.train_batches, "auto")


def test_a_mosaic_run_counts_what_it_leaves_out_and_how_long_it_waits(session, run):
    mosaics = Batches(
        run.train_batches.dataset,
        2,
        (64, 64),
        shuffle=True,
        augment=Augmentation(mosaic=1),
    )
    counts = mosaics.target_counts(0, batches=4)
    most = sorted(counts)[-2]
    session.manifest = dataclasses.replace(session.manifest, max_targets=most)
    graph_step, graph = session.step, dataclasses.replace(session.manifest, max_targets=32)

    def step(*args, **kwargs):
        session.manifest = graph  # which has room for more
        result = graph_step(*args, **kwargs)
        session.manifest = dataclasses.replace(graph, max_targets=most)
        return result

    session.step = step
    schedule = dataclasses.replace(run.schedule, epochs=1)
    result = run.but(train_batches=mosaics, val_batches=None, schedule=schedule).train(session)
    assert result.epochs[0].left_out == sum(max(count - most, 0) for count in counts) > 0
    assert 0 < result.epochs[0].waiting < 1


def test_repeated_images_count(run):
    dataset = run.val_batches.dataset
    one = dataclasses.replace(dataset, images=dataset.images[:1], labels=dataset.labels[:1])
    batches = Batches(one, 2, (64, 64), drop_last=True)
    boxes = len(batches.labels[0])
    check_capacity(batches, 2 * boxes)
    with pytest.raises(TooManyTargetsError):
        check_capacity(batches, 2 * boxes - 1)


def test_the_smallest_boxes_are_left_out_and_counted(session, run, monkeypatch):
    most, graph = 3, session.manifest
    small = dataclasses.replace(graph, max_targets=most)
    step, given = session.step, []

    def record(images, targets, **kwargs):
        given.append(targets)
        session.manifest = graph  # which has room for more
        result = step(images, targets, **kwargs)
        session.manifest = small
        return result

    monkeypatch.setattr(session, "step", record)
    session.manifest = small
    short = run.but(val_batches=None, schedule=dataclasses.replace(run.schedule, epochs=1))
    result = short.train(session, overflow="keep-largest")
    batches = list(run.train_batches.epoch(0))
    assert result.epochs[0].left_out == sum(max(len(b.targets) - most, 0) for b in batches) > 0
    for rows, batch in zip(given, batches, strict=True):
        assert len(rows) == most
        areas = np.sort(batch.targets[:, 4] * batch.targets[:, 5])[::-1]
        kept = np.sort(rows[:, 4] * rows[:, 5])[::-1]
        np.testing.assert_allclose(kept[: len(areas)], areas[:most])


def test_what_does_not_fit_is_refused(session, run):
    manifest = session.manifest
    dataset = run.val_batches.dataset
    with pytest.raises(ConfigError, match=mentions("3 images", (64, 64), manifest.batch_size)):
        check_batches(Batches(dataset, 3, (64, 64)), manifest)
    with pytest.raises(ConfigError, match=mentions((64, 32), (64, 64))):
        check_batches(Batches(dataset, 2, (64, 32)), manifest)
    fourth = dataclasses.replace(dataset, names=(*dataset.names, "hexagon"))
    with pytest.raises(ConfigError, match=r"\b4\b.*\b3\b"):
        check_batches(Batches(fourth, 2, (64, 64)), manifest)
    swapped = dataclasses.replace(dataset, names=("circle", "triangle", "square"))
    with pytest.raises(ConfigError, match=mentions("class 1", "'triangle'", "'square'")):
        check_batches(Batches(swapped, 2, (64, 64)), manifest)
    unnamed = dataclasses.replace(manifest, names=("0", "1", "2"))
    check_batches(Batches(swapped, 2, (64, 64)), unnamed)
    longer = dataclasses.replace(run.schedule, batches=5)
    with pytest.raises(ConfigError, match=r"\b5\b.*\b2\b.*\b4\b"):
        run.but(schedule=longer).train(session)


def test_run_folders_count_up(tmp_path):
    project = tmp_path / "runs" / "train"
    names = [RunFolder.create(project, "exp").path.name for _ in range(3)]
    assert names == ["exp", "exp2", "exp3"]
    assert RunFolder.create(project, "exp", exist_ok=True).path == project / "exp"
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "file" / "exp")):
        RunFolder.create(tmp_path / "file", "exp")
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "file", "a file")):
        RunFolder.create(tmp_path, "file", exist_ok=True)


def test_a_new_run_in_an_old_folder_starts_over(run):
    for path in (run.folder.last, run.folder.best, run.folder.best_onnx, run.folder.results):
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    run.folder.clear()
    assert [path for path in run.folder.path.rglob("*") if path.is_file()] == []


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "results.csv").write_text("epoch,train/box_loss\n0,what\n")
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "results.csv", "train/obj_loss")):
        read_results(tmp_path / "results.csv")
    assert read_results(tmp_path / "none.csv") == []


def scored(*fitness: float, losses: tuple[float, ...] | None = None) -> list[EpochResult]:
    return [
        EpochResult(
            epoch=epoch,
            train=LossTerms(0.0, 0.0, loss),
            val=None,
            scores=Scores(precision=0, recall=0, map50=value, map50_95=value),
            lr=(0, 0, 0),
        )
        for epoch, (value, loss) in enumerate(
            zip(fitness, losses or (1.0,) * len(fitness), strict=True)
        )
    ]


def test_the_best_epoch_is_the_fittest_then_the_one_of_least_loss():
    assert best_epoch(scored(0.1, 0.4, 0.3)).epoch == 1
    assert best_epoch(scored(0, 0, 0, losses=(3.0, 1.0, 2.0))).epoch == 1
    assert best_epoch(scored(0.2, 0.2, losses=(1.0, 1.0))).epoch == 0
    assert scored(0.5)[0].fitness == pytest.approx(0.1 * 0.5 + 0.9 * 0.5)


def test_patience_counts_epochs_since_the_best():
    results = scored(0.1, 0.4, 0.3, 0.2)
    assert not is_exhausted(results, 3)
    assert is_exhausted(results, 2)
    assert not is_exhausted(results, 0)
    assert not is_exhausted([], 1)


def test_a_run_without_progress_stops_early_and_resumes_as_complete(session, new_session, run):
    """At a rate of zero no epoch is better than the first but for its batch statistics."""
    still = run.but(
        schedule=dataclasses.replace(
            run.schedule, epochs=9, config=TrainingConfig(lr0=0, warmup_bias_lr=0)
        ),
        val_batches=None,
    )
    result = still.train(session, patience=2)
    assert result.stopped_early
    assert result.epochs[-1].epoch == result.best.epoch + 2 < 8
    assert run.folder.best_onnx.exists()
    with pytest.raises(RunCompleteError, match=mentions(run.folder.path, "3 epochs")):
        still.train(new_session(), patience=2, resume=True)

"""`--image-weights`: images of rare and badly detected classes come more often."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from exportloss.cli import main
from exportloss.errors import ArtifactError, ConfigError, TooManyTargetsError
from exportloss.runtime import TrainSession
from exportloss.runtime.data.augment import Augmentation, draw_recipe
from exportloss.runtime.data.capacity import check_capacity
from exportloss.runtime.data.image_weights import ImageWeights
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.metrics import class_map_of
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.run_log import read_class_map
from tests.support.messages import mentions
from tests.support.training_runs import EPOCHS, Recorder, assert_same_run, make_run


def rows(*classes):
    return np.array([[each, 0.5, 0.5, 0.1, 0.1] for each in classes], np.float32).reshape(-1, 5)


# Six objects of class 0, two of class 1, none of class 2; the third image has no object.
LABELS = [rows(0, 0, 0, 0), rows(0, 1), rows(), rows(0), rows(1)]


def test_weights_by_hand():
    weights = ImageWeights.of(LABELS, 3)
    inverse = np.array([1 / 6, 1 / 2, 1])  # a class without objects counts as one object
    np.testing.assert_allclose(weights.classes, 3 * inverse / inverse.sum())
    untrained = weights.weigh(None)
    a, b, _ = weights.classes / 3
    np.testing.assert_allclose(untrained, [4 * a, a + b, 0, a, b])
    np.testing.assert_allclose(weights.weigh((0.0, 0.0, 0.0)), untrained)
    after = weights.weigh((0.5, 0.9, 0.2))
    np.testing.assert_allclose(after, [a, 0.25 * a + 0.01 * b, 0, 0.25 * a, 0.01 * b])


def test_images_come_as_often_as_they_weigh():
    weights = ImageWeights.of(LABELS * 4000, 3)
    class_map = (0.5, 0.2, 0.0)
    drawn = weights.draw(class_map, np.random.default_rng(0))
    assert drawn.shape == (20000,)
    found = np.bincount(drawn % 5, minlength=5) / len(drawn)
    expected = weights.weigh(class_map)[:5]
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)
    assert found[2] == 0


def test_a_class_that_is_detected_perfectly_draws_no_image():
    weights = ImageWeights.of(LABELS, 3)
    for seed in range(50):
        drawn = weights.draw((1.0, 0.0, 0.0), np.random.default_rng(seed))
        assert {*drawn.tolist()} <= {1, 4}
    everywhere = weights.draw((1.0, 1.0, 1.0), np.random.default_rng(0))
    assert len({*everywhere.tolist()}) > 1


@pytest.mark.parametrize("random", [0.0, np.nextafter(1.0, 0.0), 1.0])
def test_the_ends_of_a_draw_are_images_with_a_weight(random):
    weights = ImageWeights.of([rows(), rows(0), rows(1), rows()], 2)
    rng = SimpleNamespace(random=lambda count: np.full(count, random))
    assert {*weights.draw(None, rng).tolist()} == {1 if random == 0 else 2}


def test_maps_of_another_number_of_classes_are_refused():
    with pytest.raises(ConfigError, match=mentions((2,), "3 classes")):
        ImageWeights.of(LABELS, 3).weigh((0.5, 0.5))


def test_classes_without_objects_have_the_mean():
    one, two = (SimpleNamespace(index=i, ap50_95=ap) for i, ap in ((0, 0.2), (2, 0.6)))
    metrics = SimpleNamespace(classes=(one, two), map50_95=0.4)
    assert class_map_of(metrics, 4) == (0.2, 0.4, 0.6, 0.4)


@pytest.fixture
def new_run(tiny_shapes, tmp_path):
    def new():
        run = make_run(tiny_shapes, tmp_path / "runs")
        weighted = Batches(
            run.train_batches.dataset,
            2,
            (64, 64),
            augment=Augmentation(fliplr=0.5, mosaic=0.5),
            image_weights=True,
        )
        return run.but(train_batches=weighted)

    return new


@pytest.fixture
def open_session(tiny_artifact):
    return lambda threads=1: TrainSession.open(tiny_artifact, threads=threads)


def paths(batches, epoch, **options):
    return [path for batch in batches.epoch(epoch, **options) for path in batch.paths]


def test_an_epoch_depends_on_seed_number_and_maps_alone(new_run):
    batches = new_run().train_batches
    class_map = (0.1, 0.9, 0.5)
    again = Batches(
        batches.dataset, 2, (64, 64), augment=batches.augment, image_weights=True, workers=5
    )
    for one, two in zip(
        batches.epoch(3, class_map=class_map), again.epoch(3, class_map=class_map), strict=True
    ):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.targets, two.targets)
    orders = [
        paths(batches, 3, class_map=class_map),
        paths(batches, 4, class_map=class_map),
        paths(batches, 3),
        paths(Batches(batches.dataset, 2, (64, 64), image_weights=True, seed=1), 3),
    ]
    assert len({*map(tuple, orders)}) == 4
    assert len(orders[0]) == 8 > len({*orders[0]})  # with replacement


def test_mosaics_are_of_the_images_of_the_epoch():
    sizes, pool = [(64, 64)] * 100, [3, 50, 97]
    augment = Augmentation(mosaic=1, mixup=1)
    seen = set()
    for seed in range(20):
        recipe = draw_recipe(3, sizes, (64, 64), augment, np.random.default_rng(seed), pool=pool)
        seen |= {tile.image for scene in recipe.scenes for tile in scene.tiles}
    assert seen == {*pool}


def test_all_images_of_a_batch_can_be_the_fullest(new_run):
    dataset = new_run().train_batches.dataset
    batches = Batches(dataset, 2, (64, 64), image_weights=True)
    most = max(map(len, batches.labels))
    check_capacity(batches, 2 * most)
    with pytest.raises(TooManyTargetsError):
        check_capacity(batches, 2 * most - 1)


@pytest.fixture
def some_maps(monkeypatch):
    """Class mAPs as of a detector that finds something, which change from epoch to epoch."""

    def class_map(metrics, num_classes):
        rng = np.random.default_rng(round(1e6 * metrics.map50_95) + metrics.objects)
        return tuple(rng.uniform(0, 1, num_classes).tolist())

    monkeypatch.setattr("exportloss.runtime.training.epoch.class_map_of", class_map)


@pytest.mark.usefixtures("some_maps")
@pytest.mark.parametrize("stop", [(0, 3), (1, 2), (2, 1)])
def test_a_resumed_run_is_the_same_run(open_session, new_run, stop):
    whole, run = new_run(), new_run()
    result = whole.train(open_session())
    used = result.epochs[0].class_map
    assert paths(run.train_batches, 1, class_map=used) != paths(run.train_batches, 1)
    with pytest.raises(KeyboardInterrupt):
        run.train(open_session(), reporter=Recorder(stop))
    run.train(open_session(2), resume=True)
    assert_same_run(run.folder, whole.folder)
    for epoch in result.epochs:
        assert read_class_map(run.folder.log, epoch.epoch) == epoch.class_map


@pytest.mark.usefixtures("some_maps")
def test_the_last_validation_decides(open_session, new_run, monkeypatch):
    """Each epoch is drawn by the mAPs of the one before, the first by none."""
    run, given = new_run(), []
    epoch_of = run.train_batches.epoch

    def record(epoch, *, class_map=None):
        given.append(class_map)
        return epoch_of(epoch, class_map=class_map)

    monkeypatch.setattr(run.train_batches, "epoch", record)
    result = run.train(open_session())
    assert given == [None, *(epoch.class_map for epoch in result.epochs[:-1])]
    given.clear()
    new_run().but(train_batches=run.train_batches).train(open_session(), validate_each=False)
    assert given == [None] * EPOCHS


def test_a_run_whose_log_is_gone_cannot_go_on(open_session, new_run):
    run = new_run()
    with pytest.raises(KeyboardInterrupt):
        run.train(open_session(), reporter=Recorder((1, 1)))
    log = run.folder.log.read_text()
    run.folder.log.unlink()
    with pytest.raises(ConfigError, match=mentions(run.folder.log, "epoch 0")):
        run.train(open_session(), resume=True)
    lines = [json.loads(line) for line in log.splitlines()]
    lines[1]["class_map"][0] = 2.0
    run.folder.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        ArtifactError, match=mentions(run.folder.log, "class_map", "epoch 0", "[2.0")
    ):
        run.train(open_session(), resume=True)
    # Without weights the log is of no consequence.
    run.folder.log.unlink()
    plain = Batches(run.train_batches.dataset, 2, (64, 64), shuffle=True)
    run.but(train_batches=plain).train(open_session(), resume=True)


def test_the_command_has_the_flag_and_records_it(tiny_artifact, tiny_shapes, tmp_path):
    options = ("--data", tiny_shapes, "--epochs", 2, "--noplots", "--threads", 1)
    for name, more in (("weighted", ["--image-weights"]), ("plain", [])):
        given = ("--weights", tiny_artifact, *options, "--project", tmp_path, "--name", name)
        assert main(["train", *map(str, given), *more]) == 0
    weighted, plain = (RunFolder(tmp_path / name) for name in ("weighted", "plain"))
    recorded = [
        yaml.safe_load(run.options.read_text())["image_weights"] for run in (weighted, plain)
    ]
    assert recorded == [True, False]
    assert weighted.last.read_bytes() != plain.last.read_bytes()
    last = weighted.last.read_bytes()
    weighted.last.unlink()
    assert main(["train", "--resume", str(weighted.path), "--noplots", "--threads", "1"]) == 0
    assert weighted.last.read_bytes() == last

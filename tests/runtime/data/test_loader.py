import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.data import decoded_images
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.data.read_ahead import map_ahead
from exportloss.runtime.images.load import load_image, load_scaled
from exportloss.targets import pad_targets
from tests.support.messages import mentions

ALL = Augmentation(
    hsv_h=0.1,
    hsv_s=0.7,
    hsv_v=0.4,
    degrees=10,
    translate=0.1,
    scale=0.5,
    shear=5,
    perspective=0.0005,
    flipud=0.5,
    fliplr=0.5,
    mosaic=0.7,
    mixup=0.5,
)


def make(folder: Path, count: int, size: tuple[int, int] = (24, 32)) -> Dataset:
    """Random images; image i has i % 3 boxes, of class i % 4."""
    rng = np.random.default_rng(0)
    for index in range(count):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{index:02d}.png")
        lines = [f"{index % 4} 0.{k + 2} 0.3 0.25 0.5" for k in range(index % 3)]
        (folder / f"{index:02d}.txt").write_text("\n".join(lines))
    images = tuple(sorted(folder.glob("*.png")))
    labels = tuple(path.with_suffix(".txt") for path in images)
    return Dataset(images=images, labels=labels, names=("a", "b", "c", "d"))


def paths(batches: list[Batch]) -> list[Path]:
    return [path for batch in batches for path in batch.paths]


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert paths(first) == paths(second)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.targets, two.targets)


def test_a_batch_holds_the_letterboxed_images_and_their_labels(tmp_path):
    dataset = make(tmp_path, 6)
    batches = Batches(dataset, 3, (32, 64))
    seen = list(batches)
    assert len(seen) == len(batches) == 2
    assert paths(seen) == list(dataset.images)
    for number, batch in enumerate(seen):
        assert batch.images.shape == (3, 3, 32, 64)
        assert batch.images.dtype == np.uint8
        assert batch.images.flags.c_contiguous
        assert batch.targets.dtype == np.float32
        assert batch.count == 3
        rows = []
        for slot in range(3):
            index = 3 * number + slot
            box = batch.letterboxes[slot]
            assert (box.source, box.size) == (batches.sizes[index], (32, 64))
            canvas = np.asarray(box.place(load_scaled(dataset.images[index], (32, 64))))
            np.testing.assert_array_equal(batch.images[slot], canvas.transpose(2, 0, 1))
            rows += [[slot, *row] for row in box.map_labels(batches.labels[index])]
        np.testing.assert_array_equal(batch.targets, np.array(rows, dtype=np.float32))


def test_without_any_box_targets_keep_their_columns(tmp_path):
    batch = next(Batches(make(tmp_path, 1), 1, (32, 32)).epoch(0))
    assert batch.targets.shape == (0, 6)


def test_evaluation_fills_the_last_batch(tmp_path):
    dataset = make(tmp_path, 7)
    seen = list(Batches(dataset, 3, (32, 32)))
    assert [batch.count for batch in seen] == [3, 3, 1]
    assert [path for batch in seen for path in batch.paths[: batch.count]] == list(dataset.images)
    assert seen[2].paths == (dataset.images[6], dataset.images[0], dataset.images[1])
    np.testing.assert_array_equal(seen[2].images[1:], seen[0].images[:2])
    assert (seen[2].targets[:, 0] == 2).sum() == 1  # the boxes of image 1, which fills slot 2


def test_the_last_batch_is_skipped_on_request(tmp_path):
    dataset = make(tmp_path, 7)
    batches = Batches(dataset, 3, (32, 32), shuffle=True, drop_last=True)
    seen = list(batches.epoch(0))
    assert [batch.count for batch in seen] == [3, 3]
    assert len(batches) == 2
    assert len(set(paths(seen))) == 6


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_small_data_set_is_repeated_to_fill_a_batch(tmp_path, drop_last):
    dataset = make(tmp_path, 2)
    batches = Batches(dataset, 5, (32, 32), drop_last=drop_last)
    (batch,) = batches
    assert len(batches) == 1
    assert batch.count == 2
    assert batch.paths == tuple(dataset.images[index] for index in (0, 1, 0, 1, 0))


def test_an_epoch_depends_on_seed_and_number_alone(tmp_path):
    dataset = make(tmp_path, 8)
    options = {"shuffle": True, "augment": ALL}
    batches = Batches(dataset, 2, (32, 32), seed=3, **options)
    zero, one = list(batches.epoch(0)), list(batches.epoch(1))
    again = Batches(dataset, 2, (32, 32), seed=3, workers=5, **options)
    assert_same(one, list(again.epoch(1)))
    assert_same(zero, list(again.epoch(0)))
    assert sorted(paths(zero)) == sorted(paths(one)) == list(dataset.images)
    assert paths(zero) != paths(one)
    assert paths(zero) != paths(list(Batches(dataset, 2, (32, 32), seed=4, shuffle=True)))
    # Nor on the batch size.
    larger = [
        image
        for batch in Batches(dataset, 4, (32, 32), seed=3, **options)
        for image in batch.images
    ]
    np.testing.assert_array_equal(np.concatenate([batch.images for batch in zero]), larger)


@pytest.mark.parametrize(("option", "axis", "column"), [("fliplr", 3, 2), ("flipud", 2, 3)])
def test_flips_turn_images_and_boxes(tmp_path, option, axis, column):
    dataset = make(tmp_path, 4)
    (plain,) = Batches(dataset, 4, (32, 48))
    (flipped,) = Batches(dataset, 4, (32, 48), augment=Augmentation(**{option: 1.0}))
    np.testing.assert_array_equal(flipped.images, np.flip(plain.images, axis))
    assert flipped.images.flags.c_contiguous
    expected = plain.targets.copy()
    expected[:, column] = 1 - expected[:, column]
    np.testing.assert_array_equal(flipped.targets, expected)


def test_flips_come_with_their_probability(tmp_path):
    dataset = make(tmp_path, 1, size=(8, 8))
    batches = Batches(dataset, 400, (8, 8), augment=Augmentation(fliplr=0.25))
    (batch,) = batches
    plain = load_image(dataset.images[0]).transpose(2, 0, 1)
    share = (batch.images != plain).any(axis=(1, 2, 3)).mean()
    assert 0.15 < share < 0.35


def test_a_damaged_image_is_raised_in_its_batch(tmp_path):
    dataset = make(tmp_path, 8)
    epoch = Batches(dataset, 2, (32, 32)).epoch(0)
    dataset.images[5].write_bytes(b"damaged since it was checked")
    assert [next(epoch).paths for _ in range(2)] == [dataset.images[:2], dataset.images[2:4]]
    with pytest.raises(DataError, match=r"05\.png"):
        next(epoch)


def test_work_ahead_is_bounded_and_in_order():
    started = []

    def items():
        for item in range(20):
            started.append(item)
            yield item

    with ThreadPoolExecutor(3) as pool:
        results = map_ahead(pool, lambda item: item * item, items(), depth=4)
        assert not started
        for index in range(20):
            assert next(results) == index * index
            assert len(started) <= index + 5
        assert not list(results)


def test_an_epoch_left_early_ends_its_threads(tmp_path):
    epoch = Batches(make(tmp_path, 9), 2, (32, 32)).epoch(0)
    next(epoch)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_bad_labels_are_refused_before_the_first_batch(tmp_path):
    dataset = make(tmp_path, 3)
    dataset.labels[1].write_text("9 .5 .5 .1 .1\n0 .5 .5 .1 .1 .1")
    with pytest.raises(DataError, match=mentions("2 problems")):
        Batches(dataset, 2, (32, 32))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"size": (32, 0)}, ["size", "0"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"workers": 0}, ["workers", "0"]),
        ({"cache": "tape"}, ["cache", "'tape'"]),
        ({"on_bad": "pass"}, ["on_bad", "'pass'"]),
    ],
)
def test_bad_settings(tmp_path, arguments, said):
    settings = {"batch_size": 2, "size": (32, 32), **arguments}
    with pytest.raises(ConfigError, match=mentions(*said)):
        Batches(make(tmp_path, 1), **settings)


def test_an_augmented_epoch_can_be_counted_without_decoding(tmp_path, monkeypatch):
    batches = Batches(make(tmp_path, 9), 3, (32, 48), shuffle=True, augment=ALL)
    expected = [len(batch.targets) for batch in batches.epoch(2)]
    assert len(set(expected)) > 1
    monkeypatch.setattr(decoded_images, "load_scaled", None)
    assert batches.target_counts(2, batches=9) == expected
    assert batches.target_counts(2, batches=2) == expected[:2]


@pytest.mark.parametrize("augment", [None, Augmentation()])
def test_a_batch_without_images_has_the_targets_of_the_images(tmp_path, augment):
    batches = Batches(make(tmp_path, 9, (37, 53)), 3, (32, 48), shuffle=True, augment=augment)
    order = np.reshape(batches.order(1), (-1, 3)).tolist()
    for images, expected in zip(order, batches.epoch(1), strict=True):
        batch = batches.without_images(images)
        assert (batch.paths, batch.letterboxes) == (expected.paths, expected.letterboxes)
        np.testing.assert_array_equal(batch.targets, expected.targets)


def test_augmented_batches_have_the_one_shape_and_good_targets(tmp_path):
    batches = Batches(make(tmp_path, 9), 3, (32, 48), shuffle=True, augment=ALL)
    assert batches.most_images == 8
    for batch in batches.epoch(1):
        assert batch.images.shape == (3, 3, 32, 48)
        assert batch.letterboxes == ()
        pad_targets(batch.targets, 99, batch_size=3, num_classes=4)
        assert (batch.targets[:, 4:] * (48, 32) > 2).all()


@pytest.mark.parametrize("augment", [None, ALL])
def test_images_kept_in_memory_are_the_same(tmp_path, monkeypatch, augment):
    dataset = make(tmp_path, 5)
    options = {"shuffle": True, "augment": augment}
    plain = [list(Batches(dataset, 2, (32, 48), **options).epoch(e)) for e in (0, 1)]
    kept = Batches(dataset, 2, (32, 48), cache="ram", **options)
    assert_same(list(kept.epoch(0)), plain[0])
    if augment is None:
        monkeypatch.setattr(decoded_images, "load_scaled", None)  # all were seen
    assert_same(list(kept.epoch(1)), plain[1])


def test_images_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    dataset = make(tmp_path, 5)
    monkeypatch.setattr(decoded_images, "available_bytes", lambda: 5 * 24 * 32 * 3)
    with pytest.raises(ConfigError, match=mentions("cache", "ram")):
        Batches(dataset, 2, (24, 32), cache="ram")
    Batches(dataset, 2, (12, 16), cache="ram")
    Batches(dataset, 2, (24, 32))


def test_waiting_is_measured(tmp_path, monkeypatch):
    load = decoded_images.load_scaled

    def slow(*args, **kwargs):
        time.sleep(0.05)
        return load(*args, **kwargs)

    monkeypatch.setattr(decoded_images, "load_scaled", slow)
    batches = Batches(make(tmp_path, 4), 2, (32, 32), workers=2)
    started = time.perf_counter()
    waited = [batch.waited for batch in batches]
    assert 0.05 < waited[0] <= sum(waited) < time.perf_counter() - started


def test_bad_images_and_labels_are_left_out_on_request(tmp_path):
    dataset = make(tmp_path, 8)
    dataset.images[2].write_bytes(b"damaged")
    dataset.labels[5].write_text("9 .5 .5 .1 .1")
    batches = Batches(dataset, 2, (32, 32), on_bad="skip")
    assert batches.skipped == 2
    assert len(batches.left_out) == 2
    good = [path for i, path in enumerate(dataset.images) if i not in (2, 5)]
    assert paths(list(batches)) == good


@pytest.mark.parametrize("augment", [None, ALL])
def test_a_image_that_is_replaced_after_the_check_is_named(tmp_path, augment):
    """Its labels were placed by the size that it had."""
    batches = Batches(make(tmp_path, 4), 2, (32, 32), augment=augment)
    Image.fromarray(np.zeros((32, 24, 3), np.uint8)).save(tmp_path / "02.png")
    with pytest.raises(DataError, match=r"02\.png.*\(32, 24\).*\(24, 32\)"):
        list(batches)

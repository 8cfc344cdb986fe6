import colorsys
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exportloss.errors import ConfigError
from exportloss.runtime.data.augment import Augmentation, draw_recipe, make_image, make_labels
from exportloss.runtime.training.hyp import TrainingConfig
from tests.support.messages import mentions

SIZE = (48, 64)  # height, width
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
SOURCES = ((48, 64), (30, 64), (48, 20), (96, 128), (13, 17))
# One box that covers each image, of the class of its index.
WHOLE = tuple(np.array([[i, 0.5, 0.5, 1, 1]], np.float32) for i in range(len(SOURCES)))


def load(index: int) -> Image.Image:
    """An image of one colour, scaled to fit."""
    height, width = SOURCES[index]
    scale = min(SIZE[0] / height, SIZE[1] / width)
    return Image.new("RGB", (round(width * scale), round(height * scale)), COLORS[index])


def draw(image=0, seed=0, **settings):
    augment = Augmentation(**settings)
    recipe = draw_recipe(image, SOURCES, SIZE, augment, np.random.default_rng(seed))
    return np.asarray(make_image(recipe, load)), make_labels(recipe, WHOLE)


def box(image, color):
    """Where a colour is, as x1, y1, x2, y2."""
    rows, columns = np.nonzero((image == color).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def corners(label):
    _, x, y, width, height = label * (1, *SIZE[::-1], *SIZE[::-1])
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def test_the_defaults_do_nothing_and_trainings_are_those_of_yolov5():
    image, labels = draw(1)
    assert box(image, COLORS[1]) == [0, 9, 64, 39]
    assert (image[:9] == 114).all()
    assert (image[39:] == 114).all()
    np.testing.assert_allclose(labels, [[1, 0.5, 0.5, 1, 0.625]])
    assert TrainingConfig().augmentation == Augmentation(
        hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, translate=0.1, scale=0.5, fliplr=0.5, mosaic=1
    )


def test_boxes_are_kept_as_they_are_where_nothing_moves():
    """However small."""
    small = (np.array([[0, 0.5, 0.5, 0.001, 0.001]], np.float32),) * len(SOURCES)
    recipe = draw_recipe(0, SOURCES, SIZE, Augmentation(fliplr=1), np.random.default_rng(0))
    np.testing.assert_allclose(make_labels(recipe, small), small[0])


@given(seed=st.integers(0, 2**32), own=st.integers(0, 4))
def test_boxes_of_a_mosaic_are_where_its_images_are(seed, own):
    augment = Augmentation(mosaic=1, scale=0.5, translate=0.1)
    recipe = draw_recipe(own, SOURCES, SIZE, augment, np.random.default_rng(seed))
    image, labels = np.asarray(make_image(recipe, load)), make_labels(recipe, WHOLE)
    tiles = [tile.image for tile in recipe.scenes[0].tiles]
    for label in labels:
        index = int(label[0])
        assert index in tiles
        if tiles.count(index) == 1:
            # Less the pixels that blend with the neighbour.
            np.testing.assert_allclose(corners(label), box(image, COLORS[index]), atol=2)


def test_mosaics_hold_their_own_image_and_any_other():
    seen = set()
    for seed in range(60):
        recipe = draw_recipe(2, SOURCES, SIZE, Augmentation(mosaic=1), np.random.default_rng(seed))
        (scene,) = recipe.scenes
        images = [tile.image for tile in scene.tiles]
        assert len(images) == 4
        assert 2 in images
        seen.add((tuple(images).index(2), *sorted(images)))
        # They meet at one point, within the middle half of the scene.
        first, *_, last = scene.tiles
        x, y = last.left, last.top
        assert (first.left + first.scaled[1], first.top + first.scaled[0]) == (x, y)
        assert 32 <= x <= 96
        assert 24 <= y <= 72
    assert {place for place, *_ in seen} == {0, 1, 2, 3}
    assert {image for _, *images in seen for image in images} == set(range(5))


def test_probabilities_are_kept_to():
    count = 400
    for name in ("mosaic", "fliplr", "flipud", "mixup"):
        augment = Augmentation(**{"mosaic": 1.0, name: 0.25})
        recipes = [
            draw_recipe(0, SOURCES, SIZE, augment, np.random.default_rng(seed))
            for seed in range(count)
        ]
        hits = {
            "mosaic": sum(len(recipe.scenes[0].tiles) == 4 for recipe in recipes),
            "mixup": sum(len(recipe.scenes) == 2 for recipe in recipes),
            "fliplr": sum(bool(recipe.edits) for recipe in recipes),
            "flipud": sum(bool(recipe.edits) for recipe in recipes),
        }
        assert 0.17 < hits[name] / count < 0.33, name


def test_mixup_blends_two_mosaics_and_keeps_the_boxes_of_both():
    augment = Augmentation(mosaic=1, mixup=1)
    shares = []
    for seed in range(40):
        recipe = draw_recipe(0, SOURCES, SIZE, augment, np.random.default_rng(seed))
        one, two = (dataclasses.replace(recipe, scenes=(scene,)) for scene in recipe.scenes)
        first, second, both = (
            np.asarray(make_image(each, load)).astype(float) for each in (one, two, recipe)
        )
        expected = recipe.fraction * first + (1 - recipe.fraction) * second
        np.testing.assert_allclose(both, expected, atol=1)
        rows = [make_labels(each, WHOLE) for each in (one, two)]
        np.testing.assert_array_equal(make_labels(recipe, WHOLE), np.concatenate(rows))
        shares.append(recipe.fraction)
    assert 0.25 < min(shares) < 0.45 < max(shares) < 0.75
    assert augment.most_images == 8


@pytest.mark.parametrize(("option", "axis", "column"), [("fliplr", 1, 1), ("flipud", 0, 2)])
def test_flips_turn_pixels_and_boxes(option, axis, column):
    plain, labels = draw(mosaic=1, seed=4)
    flipped, moved = draw(mosaic=1, seed=4, **{option: 1})
    np.testing.assert_array_equal(flipped, np.flip(plain, axis))
    labels[:, column] = 1 - labels[:, column]
    np.testing.assert_array_equal(moved, labels)


def test_colours_change_by_their_gains():
    size = (4, 4)
    image = Image.new("RGB", size, (200, 120, 60))
    hue, saturation, value = colorsys.rgb_to_hsv(200 / 255, 120 / 255, 60 / 255)
    augment = Augmentation(hsv_h=0.5, hsv_s=0.5, hsv_v=0.5)
    gains = []
    for seed in range(30):
        recipe = draw_recipe(0, [size], size, augment, np.random.default_rng(seed))
        drawn = np.asarray(make_image(recipe, lambda _: image))[0, 0]
        (edit,) = recipe.edits
        h, s, v = dataclasses.astuple(edit)
        expected = colorsys.hsv_to_rgb(hue * h % 1, min(saturation * s, 1), min(value * v, 1))
        np.testing.assert_allclose(drawn, np.multiply(expected, 255), atol=6)
        gains.append((h, s, v))
    assert (np.abs(np.array(gains) - 1) <= 0.5).all()
    assert (np.ptp(gains, axis=0) > 0.7).all()
    assert draw_recipe(0, [size], size, Augmentation(), np.random.default_rng(0)).edits == ()


shares = st.floats(0, 1)


@given(
    seed=st.integers(0, 2**32),
    values=st.fixed_dictionaries(
        dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate", "flipud", "fliplr"), shares)
        | dict.fromkeys(("mosaic", "mixup"), shares)
        | {"degrees": st.floats(0, 180), "scale": st.floats(0, 0.95)}
        | {"shear": st.floats(0, 80), "perspective": st.floats(0, 0.001)}
    ),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    sources=st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=3),
)
def test_whatever_the_settings_images_and_boxes_are_whole(seed, values, size, sources):
    augment = Augmentation(**values)
    recipe = draw_recipe(0, sources, size, augment, np.random.default_rng(seed))
    labels = [np.array([[1, 0.5, 0.5, 1, 1], [0, 0.1, 0.9, 0.2, 0.2]], np.float32)] * len(sources)

    def fitted(index):
        height, width = sources[index]
        scale = min(size[0] / height, size[1] / width)
        return Image.new("RGB", (max(round(width * scale), 1), max(round(height * scale), 1)))

    assert make_image(recipe, fitted).size == size[::-1]
    rows = make_labels(recipe, labels)
    assert rows.dtype == np.float32
    assert len(rows) <= 2 * augment.most_images
    assert np.isin(rows[:, 0], (0, 1)).all()
    assert ((rows[:, 1:] >= 0) & (rows[:, 1:] <= 1)).all()
    if augment.moves:
        assert (rows[:, 3:] * size[::-1] > 1.99).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fliplr": 1.5}, ["fliplr", "1.5", "[0, 1]"]),
        ({"flipud": float("nan")}, ["flipud", "nan"]),
        ({"scale": 1.0}, ["scale", "1.0", "[0, 0.95]"]),
        ({"perspective": 0.01}, ["perspective", "0.01", "[0, 0.001]"]),
        ({"degrees": -1}, ["degrees", "-1", "[0, 180]"]),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ConfigError, match=mentions(*said)):
        Augmentation(**settings)

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exportloss.runtime.data.geometry import (
    clip_boxes,
    corners_from_fractions,
    fractions_from_corners,
    is_worth_keeping,
    move_boxes,
    random_matrix,
    warp,
)

NOTHING = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "perspective": 0.0}


def matrix(seed=0, source=(40, 60), size=(40, 60), **changes):
    return random_matrix(np.random.default_rng(seed), source, size, **{**NOTHING, **changes})


def test_nothing_moves_by_default():
    found, factor = matrix()
    np.testing.assert_allclose(found, np.eye(3), atol=1e-12)
    assert factor == 1


def test_the_centre_of_a_scene_comes_to_the_centre_of_the_canvas():
    found, _ = matrix(source=(80, 120), degrees=30, scale=0.5, shear=10, perspective=0.001)
    x, y, w = found @ (60, 40, 1)
    np.testing.assert_allclose((x / w, y / w), (30, 20))


@given(st.integers(0, 2**32))
def test_every_change_stays_within_its_bound(seed):
    turned, _ = matrix(seed, degrees=30)
    angle = math.degrees(math.atan2(turned[0, 1], turned[0, 0]))
    assert abs(angle) <= 30
    np.testing.assert_allclose(turned[:2, :2] @ turned[:2, :2].T, np.eye(2), atol=1e-12)

    scaled, factor = matrix(seed, scale=0.25)
    assert 0.75 <= factor <= 1.25
    np.testing.assert_allclose(scaled[:2, :2], factor * np.eye(2))

    moved, _ = matrix(seed, translate=0.1)
    assert (np.abs(moved[:2, 2]) <= (6, 4)).all()

    slanted, _ = matrix(seed, shear=20)
    assert (np.abs(slanted[[0, 1], [1, 0]]) <= math.tan(math.radians(20))).all()
    np.testing.assert_allclose(slanted[[0, 1], [0, 1]], 1)

    bent, _ = matrix(seed, perspective=0.001)
    assert (np.abs(bent[2, :2]) <= 0.001).all()
    assert (bent[2, :2] != 0).all()


def test_changes_use_their_whole_range():
    factors = [matrix(seed, scale=0.5)[1] for seed in range(300)]
    assert min(factors) < 0.55
    assert max(factors) > 1.45
    assert abs(np.mean(factors) - 1) < 0.05


def test_boxes_become_the_hull_of_their_corners():
    quarter = np.array([[0.0, -1, 50], [1, 0, 0], [0, 0, 1]])  # (x, y) -> (50 - y, x)
    boxes = np.array([[10.0, 20, 30, 50], [0, 0, 0, 0]])
    np.testing.assert_array_equal(move_boxes(boxes, quarter)[0], [0, 10, 30, 30])
    eighth = math.sqrt(0.5) * np.array([[1.0, -1, 0], [1, 1, 0], [0, 0, math.sqrt(2)]])
    side = 20 * math.sqrt(0.5)
    expected = [[-side, 0, side, 2 * side]]
    np.testing.assert_allclose(move_boxes(np.array([[0.0, 0, 20, 20]]), eighth), expected)
    assert move_boxes(np.zeros((0, 4)), eighth).shape == (0, 4)


def test_a_box_behind_the_eye_has_no_area():
    steep = np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]])  # the horizon is at x = 100
    near, across = move_boxes(np.array([[10.0, 0, 50, 10], [90, 0, 150, 10]]), steep)
    np.testing.assert_allclose(near, [10 / 0.9, 0, 100, 20])
    np.testing.assert_array_equal(across, 0)


@given(
    seed=st.integers(0, 2**32),
    corner=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    sides=st.tuples(st.integers(8, 16), st.integers(8, 16)),
)
def test_pixels_and_boxes_move_alike(seed, corner, sides):
    """A white rectangle on black, and its box."""
    scene, size = np.zeros((40, 60, 3), np.uint8), (100, 120)
    (x, y), (width, height) = corner, sides
    scene[y : y + height, x : x + width] = 255
    found, _ = random_matrix(
        np.random.default_rng(seed),
        (40, 60),
        size,
        degrees=40,
        translate=0.1,
        scale=0.3,
        shear=10,
        perspective=0.001,
    )
    drawn = np.asarray(warp(Image.fromarray(scene), found, size, 0))[..., 0]
    box = np.array([[x, y, x + width, y + height]], np.float64)
    (expected,) = clip_boxes(move_boxes(box, found), size)
    rows, columns = np.nonzero(drawn > 127)
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    # A sharp corner is less than half a pixel's worth of white for a while.
    np.testing.assert_allclose(seen, expected, atol=2)


def test_what_a_image_does_not_cover_is_grey():
    white = Image.new("RGB", (10, 10), (255, 255, 255))
    away = np.array([[1.0, 0, 4], [0, 1, 0], [0, 0, 1]])
    drawn = np.asarray(warp(white, away, (10, 10), 114))
    assert (drawn[:, :4] == 114).all()
    assert (drawn[:, 4:] == 255).all()


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ([0, 0, 10, 10], [0, 0, 10, 10], True),
        ([0, 0, 3, 3], [0, 0, 2, 3], False),  # not over 2 pixels wide
        ([0, 0, 3, 3], [0, 0, 3, 2], False),
        ([0, 0, 3, 3], [0, 0, 2.1, 2.1], True),
        ([0, 0, 100, 100], [0, 0, 10, 99], False),  # less than a tenth
        ([0, 0, 100, 100], [0, 0, 10.2, 99], True),
        ([0, 0, 300, 3], [0, 0, 300, 3], False),  # as 100 to 1
        ([0, 0, 297, 3], [0, 0, 297, 3], True),
        ([0, 0, 3, 300], [0, 0, 3, 300], False),
        ([0, 0, 9, 9], [5, 5, 5, 5], False),
    ],
)
def test_which_boxes_are_kept(before, after, kept):
    both = np.array([before], np.float64), np.array([after], np.float64)
    assert is_worth_keeping(*both).tolist() == [kept]


def test_fractions_and_corners_are_inverse():
    labels = np.array([[3, 0.5, 0.25, 0.5, 0.1]], np.float32)
    boxes = corners_from_fractions(labels, (100, 40), left=7, top=-3)
    np.testing.assert_allclose(boxes, [[17, 17, 37, 27]], rtol=1e-6)
    back = fractions_from_corners(labels[:, 0], boxes - (7, -3, 7, -3), (100, 40))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, labels, rtol=1e-6)

"""Pixels of boxes and their tags, and of images beside each other."""

from __future__ import annotations

import numpy as np
import pytest

from exportloss.errors import ConfigError
from exportloss.runtime.drawing.draw import class_color, class_name, draw_boxes, grid
from tests.support.messages import mentions

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)
BOX = (40, 50, 120, 100)


def framed(box, color, line):
    """The grey image with a frame that ends within these pixels."""
    left, top, right, bottom = box
    expected = GREY.copy()
    expected[top : bottom + 1, left : right + 1] = color
    expected[top + line : bottom + 1 - line, left + line : right + 1 - line] = 128
    return expected


def tag_of(drawn, label):
    """What is drawn above the box, with its colour taken for black: what is written."""
    above = drawn[: BOX[1]].astype(int)
    above[(above == class_color(label)).all(axis=2) | (above == 128).all(axis=2)] = 0
    return above


def draw(label=1, confidence=0.9, names=("cat", "dog"), box=BOX, **options):
    return draw_boxes(GREY, np.array([[*box, confidence, label]], np.float32), names, **options)


@pytest.mark.parametrize("line", [1, 2, 5])
@pytest.mark.parametrize("label", [0, 1, 13])
def test_a_box_is_a_frame_in_the_colour_of_its_class(line, label):
    drawn = draw(label, show_names=False, line_width=line)
    np.testing.assert_array_equal(drawn, framed(BOX, class_color(label), line))
    assert (GREY == 128).all()


def test_the_width_of_a_line_suits_the_image():
    np.testing.assert_array_equal(draw(show_names=False), draw(show_names=False, line_width=2))
    large = np.full((60, 960, 3), 128, np.uint8)
    boxes = np.array([[10, 10, 900, 50, 0.9, 0]])
    np.testing.assert_array_equal(
        draw_boxes(large, boxes, ["a"], show_names=False),
        draw_boxes(large, boxes, ["a"], show_names=False, line_width=4),
    )


def test_a_tag_in_the_classs_colour_stands_above_the_box():
    drawn, plain = draw(), draw(show_names=False)
    changed = (drawn != plain).any(axis=2)
    ys, xs = np.nonzero(changed)
    assert ys.max() <= BOX[1] + 1
    assert BOX[0] <= xs.min() and xs.max() < BOX[2]
    assert (drawn[ys.min(), xs.min() : xs.max() + 1] == class_color(1)).all()
    # With a confidence it is longer than without.
    assert xs.max() > np.nonzero((draw(show_confidence=False) != plain).any(axis=2))[1].max()


def test_a_tag_says_the_name_and_two_digits_of_the_confidence():
    written = tag_of(draw(confidence=0.904), 1)
    np.testing.assert_array_equal(tag_of(draw(confidence=0.9), 1), written)
    np.testing.assert_array_equal(
        tag_of(draw(names=("cat", "dog 0.90"), show_confidence=False), 1), written
    )
    for other in (draw(confidence=0.91), draw(names=("cat", "cow")), draw(show_confidence=False)):
        assert (tag_of(other, 1) != written).any()


def test_a_class_without_a_name_is_written_as_its_number():
    assert class_name(["cat"], 1) == "class 1"
    np.testing.assert_array_equal(draw(names=("cat",)), draw(names=("cat", "class 1")))


@pytest.mark.parametrize("label", range(12))
def test_what_is_written_stands_out_against_the_colour_of_its_class(label):
    written = tag_of(draw(label, names=["HH"] * 12), label)
    written = written[written.any(axis=2)]
    luminance = np.array((0.299, 0.587, 0.114))
    assert np.abs(written @ luminance - np.dot(class_color(label), luminance)).max() > 90


@pytest.mark.parametrize("corner", [(0, 0), (0, 60), (130, 0), (130, 100)])
def test_a_tag_is_whole_at_every_edge(corner):
    """Above the box as far as the image reaches; moved inside where it does not."""
    expected, moved = (
        draw(names=("", "H" * 6), box=(left, top, left + 20, top + 15), show_confidence=False)
        for left, top in ((60, 60), corner)
    )
    inks = [
        (drawn != 128).any(axis=2) & (drawn != class_color(1)).any(axis=2)
        for drawn in (expected, moved)
    ]
    assert inks[0].sum() == inks[1].sum() > 0


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((-500, -500, 900, 900), (0, 0, 159, 119)),
        ((100, 0, 1e9, 30), (100, 0, 159, 30)),
        ((0, 110, 20, 119), (0, 110, 20, 119)),
        ((-3, -9, 4, 5), (0, 0, 4, 5)),
    ],
)
def test_boxes_across_the_border_are_clipped(box, inside):
    drawn = draw(40, box=box, show_names=False, line_width=1)
    np.testing.assert_array_equal(drawn, framed(inside, class_color(40), 1))


@pytest.mark.parametrize("box", [(200, 5, 300, 50), (50, 50, 40, 60), (-9, -9, -2, 50)])
def test_boxes_outside_or_without_area_are_skipped(box):
    np.testing.assert_array_equal(draw(0, box=box), GREY)


def test_the_most_confident_box_is_on_top_in_whatever_order_they_come():
    boxes = np.array([[20, 20, 90, 80, 0.9, 0], [50, 20, 130, 100, 0.4, 1]], np.float32)
    drawn = draw_boxes(GREY, boxes, ["a", "b"], show_names=False)
    np.testing.assert_array_equal(
        drawn, draw_boxes(GREY, boxes[::-1], ["a", "b"], show_names=False)
    )
    assert tuple(drawn[20, 60]) == class_color(0)  # where both have their upper edge
    assert tuple(drawn[20, 120]) == class_color(1)


def test_first_classes_differ():
    assert len({class_color(index) for index in range(12)}) == 12
    assert [class_color(index + 12) for index in range(12)] == [*map(class_color, range(12))]


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match=mentions("boxes", (2, 5), "(n, 6)")):
        draw_boxes(GREY, np.zeros((2, 5)), ["a"])
    with pytest.raises(ConfigError, match=r"\bline_width\b.*\b0\b.*\b1\b"):
        draw(line_width=0)


def test_grid_places_every_image_unchanged_in_its_row():
    tiles = [np.full((40, 60, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    tiles.append(np.full((20, 30, 3), 40, dtype=np.uint8))
    whole = grid(tiles, columns=2, captions=["before", "after", "c", "d"])
    middles = []
    for tile in tiles:
        ys, xs = np.nonzero((whole == tile[0, 0]).all(axis=2))
        assert np.ptp(ys) + 1 == tile.shape[0]
        assert np.ptp(xs) + 1 == tile.shape[1]
        assert len(ys) == tile.shape[0] * tile.shape[1]
        middles.append((ys.mean(), xs.mean()))
    (first, second, third, fourth) = middles
    assert first[0] == second[0] < third[0] == fourth[0]
    assert first[1] == third[1] < second[1] == fourth[1]
    side = grid(tiles[:2], columns=2)
    assert (side[side.shape[0] // 2] == 10).all(axis=1).sum() == 60
    assert side.shape[0] < whole.shape[0] / 2


def test_each_caption_stands_above_its_image():
    captions = ["HH", "", "HH", "H"]
    whole = grid([GREY] * 4, columns=2, captions=captions)
    dark = (whole < 100).all(axis=2)
    (height, width), tops = dark.shape, np.nonzero((whole == 128).all(axis=2).any(axis=1))[0]
    first = tops[0]
    second = tops[np.nonzero(np.diff(tops) > 1)[0][0] + 1]
    ink = [
        dark[rows, columns].sum()
        for rows in (slice(0, first), slice(first + GREY.shape[0], second))
        for columns in (slice(0, width // 2), slice(width // 2, width))
    ]
    assert ink[0] == ink[2] > ink[3] > ink[1] == 0
    assert dark.sum() == sum(ink)
    assert height > 2 * GREY.shape[0]


@pytest.mark.parametrize(
    ("images", "columns", "captions", "values"),
    [
        ([], 1, (), ("0 images", "1 columns")),
        ([GREY], 0, (), ("1 images", "0 columns")),
        ([GREY], 1, ("a", "b"), ("2 captions", "1 images")),
    ],
)
def test_grid_refuses_what_it_cannot_lay_out(images, columns, captions, values):
    with pytest.raises(ConfigError, match=mentions(*values)):
        grid(images, columns=columns, captions=captions)

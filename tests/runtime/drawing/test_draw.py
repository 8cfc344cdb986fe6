import numpy as np
import pytest

from exportloss.errors import ConfigError
from exportloss.runtime.drawing.draw import class_color, draw_boxes, grid

GREY = np.full((120, 160, 3), 128, dtype=np.uint8)


def test_a_box_has_the_colour_of_its_class_and_an_untouched_inside():
    boxes = np.array([[40, 50, 120, 100, 0.9, 1]], dtype=np.float32)
    drawn = draw_boxes(GREY, boxes, ["cat", "dog"])
    for y, x in ((100, 80), (75, 40), (75, 120)):
        assert tuple(drawn[y, x]) == class_color(1)
    assert (drawn[55:95, 45:115] == 128).all()
    assert (GREY == 128).all()
    # The tag stands above the box and shows more with a confidence than without.
    assert (drawn[30:50] == class_color(1)).all(axis=2).sum() > 300
    plain = draw_boxes(GREY, boxes, ["cat", "dog"], show_confidence=False)
    assert (plain != 128).sum() < (drawn != 128).sum()


@pytest.mark.parametrize(
    "box", [(-500, -500, 900, 900), (100, 0, 1e9, 30), (0, 110, 20, 119), (-3, -9, 4, 5)]
)
def test_boxes_across_the_border_are_clipped(box):
    drawn = draw_boxes(GREY, np.array([[*box, 0.5, 40]]), ["a"])
    assert drawn.shape == GREY.shape
    assert (drawn == class_color(40)).all(axis=2).any()


@pytest.mark.parametrize("box", [(200, 5, 300, 50), (50, 50, 40, 60), (-9, -9, -2, 50)])
def test_boxes_outside_or_without_area_are_left_out(box):
    np.testing.assert_array_equal(draw_boxes(GREY, np.array([[*box, 0.5, 0]]), ["a"]), GREY)


def test_first_classes_differ():
    assert len({class_color(index) for index in range(12)}) == 12


def test_refuses_another_shape_of_boxes():
    with pytest.raises(ConfigError, match=r"expected \(n, 6\)"):
        draw_boxes(GREY, np.zeros((2, 5)), ["a"])


def test_grid_places_every_image_unchanged():
    tiles = [np.full((40, 60, 3), value, dtype=np.uint8) for value in (10, 20, 30)]
    tiles.append(np.full((20, 30, 3), 40, dtype=np.uint8))
    whole = grid(tiles, columns=2, captions=["before", "after", "c", "d"])
    for tile in tiles:
        ys, xs = np.nonzero((whole == tile[0, 0]).all(axis=2))
        assert np.ptp(ys) + 1 == tile.shape[0]
        assert np.ptp(xs) + 1 == tile.shape[1]
    side = grid(tiles[:2], columns=2)
    assert (side[side.shape[0] // 2] == 10).all(axis=1).sum() == 60
    assert side.shape[0] < whole.shape[0] / 2


def test_grid_refuses_what_it_cannot_lay_out():
    for images, columns, captions in (([], 1, ()), ([GREY], 0, ()), ([GREY], 1, ("a", "b"))):
        with pytest.raises(ConfigError):
            grid(images, columns=columns, captions=captions)

from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime.data.loader import Batch
from exportloss.runtime.drawing.draw import class_color
from exportloss.runtime.drawing.mosaics import draw_batch, surest, write_batch
from exportloss.runtime.images.letterbox import letterbox
from exportloss.runtime.images.load import load_image


def make_batch(count, height, width):
    canvas, box = letterbox(np.full((height, width, 3), 90, np.uint8), (height, width))
    return Batch(
        images=np.repeat(canvas.transpose(2, 0, 1)[None], count, axis=0),
        targets=np.zeros((0, 6), np.float32),
        paths=tuple(Path(f"folder/{'long-name-' * 9}{index}.jpg") for index in range(count)),
        letterboxes=(box,) * count,
        count=count,
    )


@pytest.mark.parametrize(
    ("count", "size", "shown", "cell"),
    [(1, (64, 64), 1, 320), (5, (48, 96), 5, 320), (20, (640, 640), 16, 480)],
)
def test_a_grid_of_readable_size(count, size, shown, cell):
    batch = make_batch(count, *size)
    boxes = [np.array([[size[1] / 4, size[0] / 4, size[1] / 2, size[0] / 2, 0.9, 1]])] * count
    image = draw_batch(batch, boxes, ["a", "b"])
    columns = int(np.ceil(np.sqrt(shown)))
    assert columns * cell < image.shape[1] < columns * cell * 1.15
    # Every image shows its box: lines in the colour of the class.
    colored = (image == class_color(1)).all(axis=2)
    cells = image.shape[0] // -(-shown // columns), image.shape[1] // columns
    marked = [
        colored[row * cells[0] : (row + 1) * cells[0], column * cells[1] :][:, : cells[1]].any()
        for row in range(-(-shown // columns))
        for column in range(columns)
    ]
    assert sum(marked) == shown


def test_images_beyond_the_boxes_are_left_out(tmp_path):
    batch = make_batch(4, 64, 64)
    nothing = np.zeros((0, 6), np.float32)
    write_batch(tmp_path / "one.jpg", batch, [nothing], ["a"])
    write_batch(tmp_path / "four.jpg", batch, [nothing] * 4, ["a"], show_confidence=False)
    sizes = [load_image(tmp_path / name).shape[1] for name in ("one.jpg", "four.jpg")]
    assert sizes[1] > 1.8 * sizes[0]


def test_the_surest_are_confident_and_apart():
    boxes = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],
            [0, 0, 10, 9, 0.8, 1],  # the same place
            [20, 0, 30, 10, 0.3, 1],
            [40, 0, 50, 10, 0.2, 1],  # not sure
        ],
        np.float32,
    )
    np.testing.assert_array_equal(surest(boxes), boxes[[0, 2]])

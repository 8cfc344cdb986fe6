from __future__ import annotations

import numpy as np
from PIL import Image

from exportloss.runtime.drawing.correlogram import VARIABLES, Correlogram, plot_label_correlogram

LABELS = [
    np.array([[0, 0.5, 0.25, 0.2, 0.1], [2, 0.1, 0.9, 0.2, 0.2]], np.float32),
    np.zeros((0, 5), np.float32),
    np.array([[1, 1.0, 0.0, 1.0, 0.001]], np.float32),  # at the limits
]


def random_labels(seed=0, images=20):
    rng = np.random.default_rng(seed)
    return [
        np.column_stack((rng.integers(0, 3, n), rng.uniform(0, 1, (n, 4)))).astype(np.float32)
        for n in rng.integers(0, 30, images)
    ]


def test_each_histogram_counts_every_box_once():
    labels = random_labels()
    boxes = np.concatenate(labels)[:, 1:]
    found = Correlogram.of(labels, bins=10)
    assert found.pairs.keys() == {(r, c) for r in range(4) for c in range(r)}
    assert {len(boxes)} == {int(counts.sum()) for counts in (*found.single, *found.pairs.values())}
    for index, counts in enumerate(found.single):
        expected, edges = np.histogram(boxes[:, index], bins=10, range=(0, 1))
        np.testing.assert_array_equal(counts, expected)
        np.testing.assert_allclose(found.edges, edges)
    for (row, column), counts in found.pairs.items():
        expected, _, _ = np.histogram2d(
            boxes[:, row], boxes[:, column], bins=10, range=((0, 1), (0, 1))
        )
        np.testing.assert_array_equal(counts, expected)
        np.testing.assert_array_equal(counts.sum(axis=1), found.single[row])
        np.testing.assert_array_equal(counts.sum(axis=0), found.single[column])


def test_boxes_at_the_limits_are_in_the_outer_bins():
    found = Correlogram.of(LABELS, bins=4)
    assert found.single[0].tolist() == [1, 0, 1, 1]
    assert found.single[1].tolist() == [1, 1, 0, 1]
    assert found.pairs[2, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [0] * 4, [0, 0, 0, 1]]


def test_what_is_drawn_are_the_counts(tmp_path, drawn):
    labels = random_labels(1)
    plot_label_correlogram(tmp_path / "labels_correlogram.jpg", labels)
    with Image.open(tmp_path / "labels_correlogram.jpg") as image:
        assert image.format == "JPEG"
    (figure,) = drawn
    expected, boxes = Correlogram.of(labels), sum(map(len, labels))
    for number, axes in enumerate(figure.axes):
        row, column = divmod(number, len(VARIABLES))
        assert axes.get_visible() == (column <= row)
        if column > row:
            continue
        if row == column:
            (stairs,) = axes.patches
            counts = stairs.get_data().values
            np.testing.assert_array_equal(counts, expected.single[row])
        else:
            (mesh,) = axes.collections
            counts = mesh.get_array().filled(0)
            np.testing.assert_array_equal(counts, expected.pairs[row, column])
        assert counts.sum() == boxes
    bottom = figure.axes[-len(VARIABLES) :]
    assert tuple(axes.get_xlabel() for axes in bottom) == VARIABLES


def test_a_data_set_without_boxes_is_drawn_empty(tmp_path, drawn):
    for labels in ([], [np.zeros((0, 5), np.float32)]):
        plot_label_correlogram(tmp_path / "labels_correlogram.jpg", labels)
    assert len(drawn) == 2
    for figure in drawn:
        shown = [axes for axes in figure.axes if axes.collections]
        assert len(shown) == 6
        assert all(axes.collections[0].get_array().count() == 0 for axes in shown)

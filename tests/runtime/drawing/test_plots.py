"""What the figures of a run show: read from the figures that are written, and from the files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from exportloss.errors import ArtifactError, InstallationError
from exportloss.runtime.drawing import figures
from exportloss.runtime.drawing.draw import class_color
from exportloss.runtime.drawing.figures import matplotlib_missing
from exportloss.runtime.drawing.plots import (
    plot_confusion_matrix,
    plot_curves,
    plot_labels,
    plot_results,
)
from exportloss.runtime.evaluation.confusion import ConfusionMatrix
from tests.runtime.evaluation.test_metrics import accumulate, random_images
from tests.support.messages import mentions

AWKWARD = (r"$\frac$", "_hidden", "<&>")
SHOWN = (r"\$\frac\$", "_hidden", "<&>")  # a bare dollar would start a formula
LABELS = [np.array([[0, 0.5, 0.5, 0.2, 0.1], [2, 0.1, 0.9, 0.2, 0.2]]), np.zeros((0, 5))]
CURVES = ("PR_curve.png", "F1_curve.png", "P_curve.png", "R_curve.png")


def read_pixels(path, kind="PNG"):
    with Image.open(path) as image:
        assert image.format == kind
        return np.asarray(image.convert("RGB"))


def assert_size(pixels, figure):
    inches = figure.get_size_inches() * figure.dpi
    np.testing.assert_allclose(pixels.shape[1::-1], inches, atol=1)


def color_of(artist):
    """The colour in [0, 255] of a line, or of the edge or the face of a patch."""
    from matplotlib.colors import to_rgb

    get = getattr(artist, "get_color", None) or artist.get_facecolor
    return tuple(round(255 * value) for value in to_rgb(get()))


def texts(artists):
    return [artist.get_text().strip() for artist in artists]


@pytest.fixture(scope="module")
def metrics():
    return accumulate(random_images(0, 20, 3), 3)


def test_each_class_has_its_curve_in_its_colour_below_the_mean(tmp_path, drawn, metrics):
    paths = plot_curves(tmp_path, metrics, AWKWARD)
    assert tuple(path.name for path in paths) == CURVES
    curves = metrics.curves
    assert [one.index for one in metrics.classes] == [0, 1, 2]
    for figure, path, (x, values, titles) in zip(
        drawn,
        paths,
        (
            (curves.recall_points, curves.interpolated, ("recall", "precision")),
            (curves.confidence, curves.f1, ("confidence", "F1")),
            (curves.confidence, curves.precision, ("confidence", "precision")),
            (curves.confidence, curves.recall, ("confidence", "recall")),
        ),
        strict=True,
    ):
        (axes,) = figure.axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == titles
        assert axes.get_xlim() == (0, 1)
        assert axes.get_ylim()[0] == 0
        assert axes.get_ylim()[1] >= 1
        expected = [*values, values.mean(axis=0)]
        for line, wanted in zip(axes.lines, expected, strict=False):
            np.testing.assert_array_equal(line.get_xdata(), x)
            np.testing.assert_array_equal(line.get_ydata(), wanted)
        *classes, mean = axes.lines[:4]
        assert [color_of(line) for line in classes] == [class_color(index) for index in range(3)]
        assert mean.get_linewidth() > max(line.get_linewidth() for line in classes)
        pixels = read_pixels(path)
        assert_size(pixels, figure)
        for line in axes.lines[:4]:
            assert (pixels == color_of(line)).all(axis=2).any()


def test_legends_have_the_classes_and_the_numbers_of_the_curves(tmp_path, drawn, metrics):
    plot_curves(tmp_path, metrics, AWKWARD)
    precisions, *others = [texts(figure.axes[0].get_legend().get_texts()) for figure in drawn]
    assert precisions[:3] == [
        f"{name} {one.ap50:.3f}" for name, one in zip(SHOWN, metrics.classes, strict=True)
    ]
    assert f"{metrics.map50:.3f}" in precisions[3]
    curves = metrics.curves
    best = curves.f1.mean(axis=0)
    table = int(np.searchsorted(curves.confidence, metrics.confidence))
    for figure, legend, values, at in zip(
        drawn[1:],
        others,
        (best, curves.precision.mean(axis=0), curves.recall.mean(axis=0)),
        (int(best.argmax()), table, table),  # F1: the peak of what is drawn
        strict=True,
    ):
        assert legend[:3] == [*SHOWN]
        assert f"{values[at]:.2f}" in legend[3]
        assert f"{curves.confidence[at]:.3f}" in legend[3]
        assert len(legend) == 4
        marker = figure.axes[0].lines[4]
        assert set(marker.get_xdata()) == {curves.confidence[at]}


def test_many_classes_have_no_colour_and_no_place_in_the_legend(tmp_path, drawn):
    metrics = accumulate(random_images(0, 60, 40), 40)
    count = len(metrics.classes)
    assert count > 30
    plot_curves(tmp_path, metrics, [f"class {index}" for index in range(40)])
    for figure in drawn:
        (axes,) = figure.axes
        assert len({color_of(line) for line in axes.lines[:count]}) == 1
        assert color_of(axes.lines[count]) != color_of(axes.lines[0])
        (mean,) = texts(axes.get_legend().get_texts())
        assert "class " not in mean


def test_without_objects_there_are_no_curves(tmp_path):
    assert plot_curves(tmp_path, accumulate([], 2), ("a", "b")) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [3, 15, 40])
def test_a_confusion_matrix_shows_fractions_of_each_true_class(tmp_path, drawn, classes):
    confusion = ConfusionMatrix(classes)
    for image in random_images(0, 20, classes):
        confusion.add(*image)
    names = (*AWKWARD, *(f"class {index}" for index in range(3, classes)))
    plot_confusion_matrix(tmp_path / "matrix.png", confusion, names)
    (figure,) = drawn
    axes, counts = figure.axes[0], confusion.counts
    (cells,) = axes.images
    fractions = counts / np.maximum(counts.sum(axis=0), 1)
    np.testing.assert_array_equal(cells.get_array(), fractions)
    assert cells.get_clim() == (0, 1)
    labels = [*SHOWN, *names[3:], "background"]
    assert texts(axes.get_xticklabels()) == texts(axes.get_yticklabels()) == labels
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("true", "predicted")
    written = {text.get_position(): text.get_text().splitlines() for text in axes.texts}
    if classes == 40:
        assert not written  # too small to read
    else:
        assert written == {
            (column, row): [
                f"{fractions[row, column]:.2f}",
                *([f"({count})"] if classes == 3 else []),
            ]
            for (row, column), count in np.ndenumerate(counts)
            if count
        }
    pixels = read_pixels(tmp_path / "matrix.png")
    assert_size(pixels, figure)
    darkest = tuple(cells.cmap(fractions.max(), bytes=True)[:3])
    assert (pixels == darkest).all(axis=2).any()


@pytest.mark.parametrize("labels", [LABELS, []])
def test_labels_show_counts_outlines_centres_and_sizes(tmp_path, drawn, labels):
    plot_labels(tmp_path / "labels.jpg", labels, AWKWARD)
    (figure,) = drawn
    bars, boxes, centres, sizes = figure.axes
    counts = [1, 0, 1] if labels else [0, 0, 0]
    assert [bar.get_height() for bar in bars.patches] == counts
    assert [color_of(bar) for bar in bars.patches] == [class_color(index) for index in range(3)]
    assert texts(bars.get_xticklabels()) == [*SHOWN]
    assert texts(bars.texts) == [str(count) for count in counts]
    rows = np.concatenate([*labels, np.zeros((0, 5))])
    for outline, (_, _, _, width, height) in zip(boxes.patches, rows, strict=True):
        np.testing.assert_allclose(outline.get_center(), 0.5)
        np.testing.assert_allclose((outline.get_width(), outline.get_height()), (width, height))
    for axes, names, columns in (
        (centres, ("x", "y"), rows[:, 1:3]),
        (sizes, ("width", "height"), rows[:, 3:5]),
    ):
        assert (axes.get_xlabel(), axes.get_ylabel()) == names
        if not labels:
            assert not axes.collections
            continue
        (mesh,) = axes.collections
        expected = np.histogram2d(*columns.T, bins=40, range=((0, 1), (0, 1)))[0]
        np.testing.assert_array_equal(mesh.get_array().filled(0), expected.T)
    assert centres.yaxis_inverted()  # as in an image
    assert not sizes.yaxis_inverted()
    assert_size(read_pixels(tmp_path / "labels.jpg", "JPEG"), figure)


def test_of_many_boxes_500_have_an_outline(tmp_path, drawn):
    rows = np.tile([0, 0.5, 0.5, 0.2, 0.1], (501, 1))
    plot_labels(tmp_path / "labels.jpg", [rows], ["a"])
    bars, boxes = drawn[0].axes[:2]
    assert bars.patches[0].get_height() == 501
    assert len(boxes.patches) == 500


def series(figure):
    """What is drawn: columns, and their epochs and values."""
    return {
        axes.get_title(loc="left"): [[*data] for data in axes.lines[0].get_data()]
        for axes in figure.axes
        if axes.get_visible()
    }


def test_results_show_every_column_that_has_values(tmp_path, drawn):
    results = tmp_path / "results.csv"
    losses = "epoch,train/box_loss,train/obj_loss,train/cls_loss"
    results.write_text(f"{losses},val/box_loss\n0,0.1,0.2,0.3,\n1,0.1,0.1,0.2,\n")
    plot_results(tmp_path / "short.png", results)
    # As YOLOv5 writes it: padded with blanks.
    results.write_text(
        "               epoch,      train/box_loss,         metrics/mAP_0.5,        val/box_loss\n"
        "                   3,                 0.1,                     0.5,                 0.2\n"
    )
    plot_results(tmp_path / "long.png", results)
    short, long = drawn
    assert series(short) == {
        "train/box_loss": [[0, 1], [0.1, 0.1]],
        "train/obj_loss": [[0, 1], [0.2, 0.1]],
        "train/cls_loss": [[0, 1], [0.3, 0.2]],
    }
    assert series(long) == {
        "train/box_loss": [[3], [0.1]],
        "metrics/mAP_0.5": [[3], [0.5]],
        "val/box_loss": [[3], [0.2]],
    }
    colors = [color_of(axes.lines[0]) for axes in long.axes if axes.get_visible()]
    assert len(set(colors)) == 3  # training, validation, metrics
    for name, figure in (("short.png", short), ("long.png", long)):
        assert_size(read_pixels(tmp_path / name), figure)
    assert short.get_figheight() < long.get_figheight()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "results.csv"),
        ("epoch,train/box_loss\n0,x\n", "'x'"),
        ("time\n3\n", "epoch"),
        ("epoch,train/box_loss\n", "no epoch"),
    ],
)
def test_results_that_cannot_be_drawn(tmp_path, text, said):
    if text is not None:
        (tmp_path / "results.csv").write_text(text)
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "results.csv", said)):
        plot_results(tmp_path / "results.png", tmp_path / "results.csv")
    assert not (tmp_path / "results.png").exists()


def test_plots_leave_matplotlibs_global_state_alone(tmp_path):
    plot_labels(tmp_path / "labels.jpg", LABELS, AWKWARD)
    assert matplotlib_missing() is None
    assert "matplotlib.pyplot" not in sys.modules


def test_where_matplotlib_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.importlib.util, "find_spec", lambda name: None)
    assert "pip install matplotlib" in matplotlib_missing()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InstallationError, match="pip install matplotlib"):
        plot_labels(tmp_path / "labels.jpg", LABELS, AWKWARD)
    assert list(tmp_path.iterdir()) == []

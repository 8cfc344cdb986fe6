import sys

import numpy as np
import pytest
from PIL import Image

from exportloss.errors import ArtifactError, InstallationError
from exportloss.runtime.drawing import figures, plots
from exportloss.runtime.drawing.figures import matplotlib_missing
from exportloss.runtime.drawing.plots import (
    plot_confusion_matrix,
    plot_curves,
    plot_labels,
    plot_results,
)
from exportloss.runtime.evaluation.confusion import ConfusionMatrix
from exportloss.runtime.images.load import load_image
from tests.runtime.evaluation.test_metrics import accumulate, random_images

AWKWARD = (r"$\frac$", "_hidden", "<&>")
LABELS = [np.array([[0, 0.5, 0.5, 0.2, 0.1], [2, 0.1, 0.9, 0.2, 0.2]]), np.zeros((0, 5))]


def assert_image(path, kind="PNG"):
    with Image.open(path) as image:
        assert image.format == kind
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 400
    assert pixels.std() > 5


@pytest.mark.parametrize("classes", [3, 40])
def test_curves_and_confusion_matrix(tmp_path, classes):
    names = (*AWKWARD, *map(str, range(classes)))[:classes]
    images = random_images(0, 20, classes)
    metrics = accumulate(images, classes)
    paths = plot_curves(tmp_path, metrics, names)
    assert [path.name for path in paths] == [f"{n}_curve.png" for n in ("PR", "F1", "P", "R")]
    confusion = ConfusionMatrix(classes)
    for image in images:
        confusion.add(*image)
    plot_confusion_matrix(tmp_path / "confusion_matrix.png", confusion, names)
    for path in (*paths, tmp_path / "confusion_matrix.png"):
        assert_image(path)


def test_without_objects_there_are_no_curves(tmp_path):
    assert plot_curves(tmp_path, accumulate([], 2), ("a", "b")) == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", [LABELS, []])
def test_labels(tmp_path, labels):
    plot_labels(tmp_path / "labels.jpg", labels, AWKWARD)
    assert_image(tmp_path / "labels.jpg", "JPEG")


def test_results_with_and_without_validation_and_metrics(tmp_path):
    results = tmp_path / "results.csv"
    losses = "epoch,train/box_loss,train/obj_loss,train/cls_loss"
    results.write_text(f"{losses},val/box_loss\n0,0.1,0.2,0.3,\n1,0.1,0.1,0.2,\n")
    plot_results(tmp_path / "short.png", results)
    # As YOLOv5 writes it: padded with blanks.
    results.write_text(
        "               epoch,      train/box_loss,         metrics/mAP_0.5,        val/box_loss\n"
        "                   0,                 0.1,                     0.5,                 0.2\n"
    )
    plot_results(tmp_path / "long.png", results)
    heights = [load_image(tmp_path / name).shape[0] for name in ("short.png", "long.png")]
    assert heights[0] < heights[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no readable results file"),
        ("epoch,train/box_loss\n0,x\n", "no readable results file"),
        ("time\n3\n", "no readable results file"),
        ("epoch,train/box_loss\n", "no epoch to draw"),
    ],
)
def test_results_that_cannot_be_drawn(tmp_path, text, message):
    if text is not None:
        (tmp_path / "results.csv").write_text(text)
    with pytest.raises(ArtifactError, match=message):
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


def test_the_legend_of_f1_is_the_peak_of_the_curve(tmp_path, monkeypatch):
    metrics = accumulate(random_images(0, 20, 3), 3)
    titles = []
    lines = plots._lines

    def record(*args, **options):
        titles.append(options["mean"])
        return lines(*args, **options)

    monkeypatch.setattr(plots, "_lines", record)
    plot_curves(tmp_path, metrics, ("a", "b", "c"))
    mean = metrics.curves.f1.mean(axis=0)
    at = metrics.curves.confidence[mean.argmax()]
    assert titles[1] == f"all classes {mean.max():.2f} at {at:.3f}"

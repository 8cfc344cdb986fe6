"""YOLOv5's plots of a run, where matplotlib is installed; a device may well go without."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, excerpt, printable
from exportloss.runtime.drawing.draw import class_color
from exportloss.runtime.drawing.figures import BLUE, DARK, GREY, ORANGE, figure_file, tidy
from exportloss.runtime.drawing.fonts import drawable_names
from exportloss.runtime.evaluation.confusion import ConfusionMatrix
from exportloss.runtime.evaluation.metrics import Metrics
from exportloss.runtime.evaluation.scores import METRICS
from exportloss.runtime.training.results import COLUMNS, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_confusion_matrix",
    "plot_curves",
    "plot_labels",
    "plot_results",
]

Array = npt.NDArray[np.floating]

_METRIC = "#059669"
_MOST_NAMED = 20  # classes that have a line of their own colour and a place in the legend
_MOST_WRITTEN = 30  # classes whose cells have their numbers written in

# Two rows, as YOLOv5 lays them out: losses at the left, half of the metrics at the right.
_SCORES = [metric.column for metric in METRICS]
_HALF = -(-len(_SCORES) // 2)
_PANELS = (
    *(column for column in COLUMNS if column.startswith("train/")),
    *_SCORES[:_HALF],
    *(column for column in COLUMNS if column.startswith("val/")),
    *_SCORES[_HALF:],
)


def plot_confusion_matrix(path: Path, confusion: ConfusionMatrix, names: Sequence[str]) -> None:
    """Draw the matrix, each true class as shares of its objects: `confusion_matrix.png`.

    Args:
        path: PNG file to write.
        confusion: the counts.
        names: the classes, as many.

    Raises:
        ArtifactError: the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    shares, count = confusion.shares, confusion.num_classes + 1
    side = float(np.clip(2.5 + 0.75 * count, 6, 18))
    names = drawable_names(names)
    with figure_file(path, side * 1.08, side, names=names) as figure:
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        labels = (*map(_plain, names), "background")
        font = float(np.clip(220 / count, 4, 11))
        axes.set_xticks(range(count), labels, rotation=90 if count > 6 else 0, fontsize=font)
        axes.set_yticks(range(count), labels, fontsize=font)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        if count <= _MOST_WRITTEN:
            for (row, column), share in np.ndenumerate(shares):
                if confusion.counts[row, column]:
                    ink = "white" if share > 0.5 else DARK
                    text = f"{share:.2f}"
                    if count <= 12:
                        text += f"\n({confusion.counts[row, column]})"
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=font)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title("Confusion matrix: shares of each true class", loc="left", fontsize=12)
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02).outline.set_visible(False)


def plot_curves(folder: Path, metrics: Metrics, names: Sequence[str]) -> tuple[Path, ...]:
    """Draw `PR_curve.png`, `F1_curve.png`, `P_curve.png` and `R_curve.png`, at IoU 0.5.

    Args:
        folder: where to write.
        metrics: of a validation.
        names: the classes of the data set.

    Returns:
        The files; none where the labels have no object.

    Raises:
        ArtifactError: a file cannot be written.
        InstallationError: matplotlib is missing.
    """
    if not metrics.classes:
        return ()
    curves, names = metrics.curves, drawable_names(names)
    present = [(one.index, _plain(names[one.index])) for one in metrics.classes]
    paths = {name: folder / f"{name}_curve.png" for name in ("PR", "F1", "P", "R")}
    with figure_file(paths["PR"], 9, 6, names=names) as figure:
        _lines(
            figure,
            curves.recall_points,
            curves.interpolated,
            titles=("recall", "precision"),
            named=[
                (index, f"{name} {one.ap50:.3f}")
                for (index, name), one in zip(present, metrics.classes, strict=True)
            ],
            mean=f"all classes {metrics.map50:.3f} mAP50",
        )
    for short, title, values in (
        ("F1", "F1", curves.f1),
        ("P", "precision", curves.precision),
        ("R", "recall", curves.recall),
    ):
        mean = values.mean(axis=0)
        at = int(np.searchsorted(curves.confidence, metrics.confidence))
        if short == "F1":  # the peak of what is drawn; the table's is that of a smoothed curve
            at = int(mean.argmax())
        with figure_file(paths[short], 9, 6, names=names) as figure:
            axes = _lines(
                figure,
                curves.confidence,
                values,
                titles=("confidence", title),
                named=present,
                mean=f"all classes {mean[at]:.2f} at {curves.confidence[at]:.3f}",
            )
            axes.axvline(curves.confidence[at], color=GREY, linewidth=1, linestyle=":")
    return tuple(paths.values())


def plot_results(path: Path, results: Path) -> None:
    """Draw every loss and metric of a `results.csv` over the epochs: `results.png`.

    Args:
        path: PNG file to write.
        results: CSV with YOLOv5's column names; columns that are missing or empty are left out.

    Raises:
        ArtifactError: `results` cannot be read or has no epoch, or the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    try:
        rows = read_rows(results)
        epochs = [float(row["epoch"]) for row in rows]
        series = {
            name: [float(row[name]) for row in rows]
            for name in _PANELS
            if rows and all((row.get(name) or "").strip() for row in rows)
        }
    except ArtifactError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{results} is no readable results file: {error!r}") from error
    if not series:
        raise ArtifactError(f"{results} has no epoch to draw")
    columns = -(-len(_PANELS) // 2)
    shown = [row for row in (_PANELS[:columns], _PANELS[columns:]) if series.keys() & set(row)]
    with figure_file(path, 2.6 * columns, 2.5 * len(shown)) as figure:
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for axes, name in itertools.zip_longest(grid.flat, itertools.chain(*shown)):
            if name not in series:
                axes.set_visible(False)
                continue
            color = {"train": BLUE, "val": ORANGE}.get(name.partition("/")[0], _METRIC)
            marker = "o" if len(epochs) <= 40 else None
            axes.plot(epochs, series[name], color=color, linewidth=1.6, marker=marker, markersize=3)
            axes.set_title(name, fontsize=10, loc="left")
            axes.xaxis.get_major_locator().set_params(integer=True)
            tidy(axes)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")


def plot_labels(path: Path, labels: Sequence[Array], names: Sequence[str]) -> None:
    """Draw what a data set's labels are like: `labels.jpg`.

    How many objects each class has, their boxes about a common centre, where the centres lie, and
    their sizes.

    Args:
        path: JPEG file to write.
        labels: (n, 5) class, x, y, width, height as shares of the image, an image.
        names: the classes.

    Raises:
        ArtifactError: the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    rows = np.concatenate([*labels, np.zeros((0, 5))])
    classes, names = rows[:, 0].astype(int), drawable_names(names)
    with figure_file(path, 10, 9, kind="jpeg", names=names) as figure:
        (bars, boxes), (centres, sizes) = figure.subplots(2, 2)
        counts = np.bincount(classes, minlength=len(names))
        drawn = bars.bar(range(len(names)), counts, color=[_hex(i) for i in range(len(names))])
        if len(names) <= _MOST_WRITTEN:
            bars.set_xticks(
                range(len(names)), map(_plain, names), rotation=90 if len(names) > 5 else 0
            )
            bars.bar_label(drawn, fontsize=8)
        bars.set_ylabel("objects")
        tidy(bars)
        _outlines(boxes, rows[:500])
        for axes, columns, title in (
            (centres, rows[:, 1:3], ("x", "y")),
            (sizes, rows[:, 3:5], ("width", "height")),
        ):
            if len(rows):
                axes.hist2d(*columns.T, bins=40, range=((0, 1), (0, 1)), cmap="Blues", cmin=1)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_xlabel(title[0])
            axes.set_ylabel(title[1])
            axes.set_aspect("equal")
            tidy(axes)
        centres.invert_yaxis()  # as in an image


def _outlines(axes: Axes, rows: Array) -> None:
    """Draw boxes about one centre."""
    from matplotlib.patches import Rectangle

    for label, _, _, width, height in rows:
        corner = (0.5 - width / 2, 0.5 - height / 2)
        color = _hex(int(label))
        axes.add_patch(
            Rectangle(corner, width, height, fill=False, color=color, linewidth=0.6, alpha=0.6)
        )
    axes.set_aspect("equal")
    axes.set_axis_off()


def _lines(
    figure: Figure,
    x: Array,
    values: Array,
    *,
    titles: tuple[str, str],
    named: Sequence[tuple[int, str]],
    mean: str,
) -> Axes:
    """Draw a line a class, and their mean above them."""
    axes: Axes = figure.subplots()
    few = len(named) <= _MOST_NAMED
    for (index, name), line in zip(named, values, strict=True):
        if few:
            label = f" {name}" if name.startswith("_") else name  # legends skip a leading "_"
            axes.plot(x, line, color=_hex(index), linewidth=1.4, label=label)
        else:
            axes.plot(x, line, color=GREY, linewidth=0.7, alpha=0.6)
    axes.plot(x, values.mean(axis=0), color=DARK, linewidth=2.6, label=mean)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(titles[0])
    axes.set_ylabel(titles[1])
    axes.set_title("at IoU 0.5", loc="left", fontsize=10)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    tidy(axes)
    return axes


def _plain(name: str) -> str:
    return excerpt(printable(name)).replace("$", r"\$")  # which would start a formula


def _hex(index: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*class_color(index))

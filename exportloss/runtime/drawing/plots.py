"""YOLOv5's plots of a run; they need matplotlib, which a device need not have."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
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
from exportloss.runtime.training.results import read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_confusion_matrix",
    "plot_curves",
    "plot_labels",
    "plot_results",
]

_Floats = npt.NDArray[np.floating]

_METRIC = "#059669"
_MOST_NAMED = 20  # most classes with colours and legend entries of their own
_MOST_WRITTEN = 30  # most classes with numbers in cells, or names on an axis

_SCORES = [metric.column for metric in METRICS]
_HALF = -(-len(_SCORES) // 2)
_SPLITS = ("train", "val")


def plot_confusion_matrix(path: Path, confusion: ConfusionMatrix, names: Sequence[str]) -> None:
    """Draw the matrix, with each true class as fractions of its objects: `confusion_matrix.png`.

    Args:
        path: PNG file to write.
        confusion: Confusion matrix.
        names: Class names, one per class of the matrix.

    Raises:
        ArtifactError: the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    fractions, count = confusion.fractions, confusion.num_classes + 1
    side = float(np.clip(2.5 + 0.75 * count, 6, 18))
    names = drawable_names(names)
    with figure_file(path, side * 1.08, side, names=names) as figure:
        axes = figure.subplots()
        image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
        labels = (*map(_plain, names), "background")
        font = float(np.clip(220 / count, 4, 11))
        axes.set_xticks(range(count), labels, rotation=90 if count > 6 else 0, fontsize=font)
        axes.set_yticks(range(count), labels, fontsize=font)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        if count <= _MOST_WRITTEN:
            for (row, column), fraction in np.ndenumerate(fractions):
                if confusion.counts[row, column]:
                    ink = "white" if fraction > 0.5 else DARK
                    text = f"{fraction:.2f}"
                    if count <= 12:
                        text += f"\n({confusion.counts[row, column]})"
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=font)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_title("Confusion matrix: fractions of each true class", loc="left", fontsize=12)
        figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02).outline.set_visible(False)


def plot_curves(folder: Path, metrics: Metrics, names: Sequence[str]) -> tuple[Path, ...]:
    """Draw `PR_curve.png`, `F1_curve.png`, `P_curve.png` and `R_curve.png`, at IoU 0.5.

    Args:
        folder: Folder to write to.
        metrics: Metrics of a validation.
        names: Class names of the data set.

    Returns:
        The files written; none if the labels have no object.

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
        if short == "F1":  # the peak of the drawn curve; the table's is of a smoothed one
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
    """Draw the losses and metrics of a `results.csv` over the epochs: `results.png`.

    Args:
        path: PNG file to write.
        results: CSV file with YOLOv5's column names; missing or incomplete columns are skipped.

    Raises:
        ArtifactError: `results` cannot be read or has no epoch, or the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    try:
        rows = read_rows(results)
        epochs = [float(row["epoch"]) for row in rows]
        upper, lower = _panels(rows[0] if rows else ())
        series = {
            name: [float(row[name]) for row in rows]
            for name in (*upper, *lower)
            if rows and all((row.get(name) or "").strip() for row in rows)
        }
    except ArtifactError:
        raise
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{results} is no readable results file: {error!r}") from error
    if not series:
        raise ArtifactError(f"{results} has no epoch to draw")
    columns = len(upper)
    shown = [row for row in (upper, lower) if series.keys() & set(row)]
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


def _panels(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return two rows of columns as in YOLOv5: losses at the left, half of the metrics each."""
    losses = [name.partition("/")[2] for name in names if name.startswith(("train/", "val/"))]
    left = {split: [f"{split}/{one}" for one in dict.fromkeys(losses)] for split in _SPLITS}
    train, val = left.values()
    return [*train, *_SCORES[:_HALF]], [*val, *_SCORES[_HALF:], *[""] * (len(_SCORES) % 2)]


def plot_labels(path: Path, labels: Sequence[_Floats], names: Sequence[str]) -> None:
    """Draw the labels of a data set: `labels.jpg`.

    Shows the number of objects per class, boxes about a common centre, their centres, and their
    sizes.

    Args:
        path: JPEG file to write.
        labels: One (n, 5) array per image: class, x, y, width, height as fractions of the image.
        names: Class names.

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
        centres.invert_yaxis()  # y points down, as in an image


def _outlines(axes: Axes, rows: _Floats) -> None:
    """Draw boxes about a common centre."""
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
    x: _Floats,
    values: _Floats,
    *,
    titles: tuple[str, str],
    named: Sequence[tuple[int, str]],
    mean: str,
) -> Axes:
    """Draw one line per class, and their mean on top."""
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

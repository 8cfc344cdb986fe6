"""The label correlogram: positions and sizes of boxes, alone and in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from exportloss.runtime.drawing.figures import figure_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["VARIABLES", "Correlogram", "plot_label_correlogram"]

VARIABLES = ("x", "y", "width", "height")
_BINS = 50
_INK = "#2563eb"

Counts = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Correlogram:
    """Histograms of box centres and sizes, alone and in pairs.

    Attributes:
        edges: (bins + 1,) limits of the bins, from 0 to 1.
        single: (bins,) boxes per bin of each variable, by its index in `VARIABLES`.
        pairs: (bins, bins) boxes per bin of each pair of variables, by their indices (row,
            column), row > column; the first axis is the row's variable.
    """

    edges: npt.NDArray[np.float64]
    single: tuple[Counts, ...]
    pairs: Mapping[tuple[int, int], Counts]

    @classmethod
    def of(cls, labels: Sequence[npt.NDArray[np.floating]], *, bins: int = _BINS) -> Correlogram:
        """Count boxes.

        Args:
            labels: One (n, 5) array per image: class, x, y, width, height as fractions of the
                image, in [0, 1].
            bins: Number of bins per variable, >= 1.
        """
        boxes = np.concatenate([*labels, np.zeros((0, 5))])[:, 1:].astype(np.float64)
        bin_of = np.minimum((boxes * bins).astype(np.int64), bins - 1)  # (n, 4); 1.0 is in the last
        pairs = {
            (row, column): np.bincount(
                bin_of[:, row] * bins + bin_of[:, column], minlength=bins * bins
            ).reshape(bins, bins)
            for row in range(len(VARIABLES))
            for column in range(row)
        }
        return cls(
            edges=np.linspace(0, 1, bins + 1),
            single=tuple(
                np.bincount(bin_of[:, index], minlength=bins) for index in range(len(VARIABLES))
            ),
            pairs=MappingProxyType(pairs),
        )


def plot_label_correlogram(path: Path, labels: Sequence[npt.NDArray[np.floating]]) -> None:
    """Draw the histograms of all boxes of a data set: `labels_correlogram.jpg`.

    The diagonal shows x, y, width and height alone; the cells below it show each pair.

    Args:
        path: JPEG file to write.
        labels: One (n, 5) array per image, as for `Correlogram.of`.

    Raises:
        ArtifactError: the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    correlogram = Correlogram.of(labels)
    with figure_file(path, 9, 9, kind="jpeg") as figure:
        _draw(figure, correlogram)


def _draw(figure: Figure, correlogram: Correlogram) -> None:
    count = len(VARIABLES)
    grid = figure.subplots(count, count, squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        if column > row:
            axes.set_visible(False)
            continue
        if row == column:
            axes.stairs(correlogram.single[row], correlogram.edges, fill=True, color=_INK)
            axes.set_ylim(bottom=0)
        else:
            counts = correlogram.pairs[row, column]
            shown = np.ma.masked_equal(counts, 0)  # empty bins stay white
            axes.pcolormesh(correlogram.edges, correlogram.edges, shown, cmap="Blues", vmin=0)
            axes.set_ylim(0, 1)
        axes.set_xlim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, labelbottom=row == count - 1)
        if row == count - 1:
            axes.set_xlabel(VARIABLES[column])
        if column == 0:
            axes.set_ylabel(VARIABLES[row] if row else "boxes")
        else:
            axes.set_yticklabels([])

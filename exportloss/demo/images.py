"""The demonstration's images: loss curves, and detections before and after training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from exportloss.demo.detections import BoxArray
from exportloss.runtime.drawing.draw import draw_boxes, grid
from exportloss.runtime.drawing.figures import BLUE, ORANGE, figure_file, tidy
from exportloss.runtime.images.load import ImageArray
from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.training.results import EpochResult

__all__ = ["plot_losses", "relative_gap", "show_predictions", "total"]

_STYLES = ("solid", "dashed", "dotted")
_SCALE = 2  # enlargement of images, for legible labels that do not cover small objects


def total(items: LossTerms) -> float:
    """Return the loss per image: the sum of its terms."""
    return items.total


def relative_gap(
    epochs: Sequence[EpochResult], reference: Sequence[EpochResult], *, split: str
) -> list[float]:
    """Return |loss - reference| / reference per epoch; `split` is "train" or "val"."""
    return [
        abs(mine - theirs) / theirs
        for mine, theirs in zip(_curve(epochs, split), _curve(reference, split), strict=True)
    ]


def plot_losses(
    path: Path,
    runs: Mapping[str, Sequence[EpochResult]],
    reference: Sequence[EpochResult],
    *,
    title: str,
) -> None:
    """Plot the losses of runs with those of the same training in eager torch, and differences.

    Args:
        path: PNG file to write.
        runs: Epochs of up to three runs by name, with validation.
        reference: Epochs of eager torch, equally many.
        title: Title of the plot.

    Raises:
        ArtifactError: the file cannot be written.
        InstallationError: matplotlib is missing.
    """
    with figure_file(path, 9, 6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        numbers = range(1, len(reference) + 1)
        for split, name, color in (("train", "training", BLUE), ("val", "validation", ORANGE)):
            upper.plot(
                numbers,
                _curve(reference, split),
                color=color,
                alpha=0.28,
                linewidth=7,
                solid_capstyle="round",
                label=f"{name}, eager torch",
            )
            for (run, epochs), style in zip(runs.items(), _STYLES, strict=False):
                line = {"color": color, "linestyle": style}
                upper.plot(
                    numbers, _curve(epochs, split), linewidth=1.6, label=f"{name}, {run}", **line
                )
                gap = relative_gap(epochs, reference, split=split)
                lower.plot(numbers, gap, linewidth=1.4, marker="o", markersize=3, **line)
        upper.set_title(title, loc="left", fontsize=12, fontweight="bold")
        upper.set_ylabel("loss per image")
        # The validation loss may peak while the running statistics lag behind; peaks are cut off.
        upper.set_ylim(0, 1.15 * max(_curve(reference, "train")))
        upper.legend(frameon=False, ncols=2)
        lower.set_yscale("log")
        lower.set_ylabel("relative\ndifference")
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        for axes in (upper, lower):
            tidy(axes)
            axes.margins(x=0.02)


def show_predictions(
    path: Path,
    images: Sequence[ImageArray],
    before: Sequence[BoxArray],
    after: Sequence[BoxArray],
    names: Sequence[str],
    *,
    pairs_per_row: int = 2,
) -> None:
    """Draw the detections in images before and after training, side by side.

    Args:
        path: PNG file to write.
        images: Images, each (H, W, 3).
        before: Boxes before training, (n, 6) per image, as for `draw_boxes`.
        after: Boxes after training, likewise.
        names: Class names.
        pairs_per_row: Number of images per row, each drawn twice.

    Raises:
        ArtifactError: the file cannot be written.
    """
    cells, captions = [], []
    for image, *both in zip(images, before, after, strict=True):
        for boxes, caption in zip(both, ("before", "after"), strict=True):
            cells.append(_drawn(image, boxes, names))
            captions.append(caption)
    sheet = grid(cells, columns=2 * pairs_per_row, captions=captions)
    with new_file(path) as temporary:
        Image.fromarray(sheet).save(temporary, format="png", optimize=True)


def _drawn(image: ImageArray, boxes: BoxArray, names: Sequence[str]) -> ImageArray:
    height, width = image.shape[:2]
    size = (width * _SCALE, height * _SCALE)
    large = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    scale = np.array((_SCALE,) * 4 + (1, 1), np.float32)
    return draw_boxes(large, boxes * scale, names)


def _curve(epochs: Sequence[EpochResult], split: str) -> list[float]:
    return [total(getattr(epoch, split)) for epoch in epochs]

"""Counts of a split, and what may be a mistake in it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from exportloss.errors import DataError
from exportloss.runtime.data.dataset import IMAGE_SUFFIXES
from exportloss.runtime.data.loader import Batches

__all__ = ["SplitSummary", "refuse_nothing_to_learn", "summarize"]

_NOT_LABELS = frozenset({"classes", "obj", "readme"})  # text files that tools leave beside labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """A split in numbers.

    Attributes:
        images: Number of images.
        objects: Number of boxes in all images.
        without_file: Number of images without a label file.
        empty: Number of images whose label file has no box.
        fullest: Number of boxes in the batch of the images with the most boxes.
        orphans: Label files whose names match no image.
        crowds: Number of COCO boxes skipped because they stand for a crowd.
        no_area: Number of COCO boxes skipped because a side is 0.
        strays: Number of COCO annotations that belong to none of the file's images.
        is_coco: True if the boxes are in a COCO file.
    """

    images: int
    objects: int
    without_file: int
    empty: int
    fullest: int
    orphans: tuple[Path, ...]
    crowds: int = 0
    no_area: int = 0
    strays: int = 0
    is_coco: bool = False

    def __str__(self) -> str:
        backgrounds = (
            f"{self.empty} without a box"
            if self.is_coco
            else f"{self.without_file} without a label file, {self.empty} with an empty one"
        )
        return (
            f"{self.images} images, {self.objects} objects; {backgrounds}; at most {self.fullest} "
            "objects in a batch"
        )


def summarize(batches: Batches) -> SplitSummary:
    """Count images and boxes of a split, and find label files that are not read."""
    counts = [len(rows) for rows in batches.labels]
    coco = batches.dataset.coco
    labelled = zip(counts, batches.has_label_file, strict=True)
    return SplitSummary(
        images=len(counts),
        objects=sum(counts),
        without_file=sum(not has_file for has_file in batches.has_label_file),
        empty=sum(count == 0 and has_file for count, has_file in labelled),
        fullest=sum(sorted(counts, reverse=True)[: batches.batch_size]),
        orphans=() if coco is not None else _orphans(batches),
        crowds=0 if coco is None else coco.file.crowds,
        no_area=0 if coco is None else coco.file.empty,
        strays=0 if coco is None else coco.file.strays,
        is_coco=coco is not None,
    )


def refuse_nothing_to_learn(batches: Batches, summary: SplitSummary) -> None:
    """Refuse a training split without boxes: it would teach the detector to find nothing.

    Raises:
        DataError: there is no box; the message names a label file that is not read, if any.
    """
    if summary.objects:
        return
    path = batches.dataset.images[0]
    hint = f"; {summary.orphans[0]} belongs to no image" if summary.orphans else ""
    raise DataError(
        f"the {summary.images} training images have no object; expected labels, those of {path} "
        f"in {batches.dataset.labels[0]}{hint}"
    )


def _orphans(batches: Batches) -> tuple[Path, ...]:
    """Find files in the label folders whose names match no image."""
    dataset = batches.dataset
    folders = {
        label.parent: image.parent
        for label, image in zip(dataset.labels, dataset.images, strict=True)
    }
    lists = {os.path.abspath(source) for source in dataset.sources}  # noqa: PTH100
    orphans = []
    for labels, images in folders.items():
        stems = {path.stem for path in _files(images) if path.suffix.lower() in IMAGE_SUFFIXES}
        for path in _files(labels):
            is_label = path.suffix.lower() == ".txt" and path.stem.lower() not in _NOT_LABELS
            is_read = path.suffix == ".txt" and path.stem in stems
            if is_label and not is_read and str(path) not in lists:
                orphans.append(path)
    return tuple(orphans)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:  # a missing folder of labels is reported elsewhere
        return []

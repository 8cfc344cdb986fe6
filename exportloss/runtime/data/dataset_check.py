"""Check of every label and image of a data set before training."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.data.coco.split import CocoSplit, coco_rows
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.label_cache import Index, hash_image, hash_labels
from exportloss.runtime.data.labels import LabelArray, parse_labels, read_label_file, refuse
from exportloss.runtime.images.load import ExaminedImage, examine_image
from exportloss.runtime.storage.cache import cache_folder

__all__ = ["CheckedDataset", "OnBad", "check_dataset"]

OnBad = Literal["raise", "skip"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CheckedDataset:
    """Images that can be decoded, with labels that can be trained on.

    Attributes:
        dataset: Data set without the skipped images.
        labels: One array per image, as from `read_labels`.
        sizes: (height, width) of every upright image, pixels.
        has_label_file: Flag per image: it has a label file, possibly an empty one. Always True for
            a COCO file.
        left_out: Problems of the skipped images, each as `file: what` or `file:line: what`.
        skipped: Number of skipped images.
        unended: Number of JPEG files without an end marker; they are decoded as if they had one.
    """

    dataset: Dataset
    labels: tuple[LabelArray, ...]
    sizes: tuple[tuple[int, int], ...]
    has_label_file: tuple[bool, ...]
    left_out: tuple[str, ...] = ()
    skipped: int = 0
    unended: int = 0


def check_dataset(dataset: Dataset, *, on_bad: OnBad = "raise", workers: int = 2) -> CheckedDataset:
    """Read the labels of every image, and decode every image once.

    Good files are remembered in the user's cache folder (see `label_cache`), so that the next
    check reads only new and changed ones.

    Args:
        dataset: Data set to check; its files are never changed.
        on_bad: `"raise"` to refuse a data set with bad files, `"skip"` to skip images that are bad
            or have bad labels.
        workers: Number of threads, >= 1.

    Raises:
        DataError: labels or images are bad (one message lists them all, the first twenty in full);
            or no image is left; or no image has a label file, so that they must lie elsewhere.
        ConfigError: `on_bad` is neither `"raise"` nor `"skip"`.
    """
    if on_bad not in get_args(OnBad):
        raise ConfigError(f"on_bad is {on_bad!r}; expected one of {get_args(OnBad)}")
    path = _index_path(dataset)
    known, found = Index.load(path), Index()
    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        entries = list(pool.map(_checker(dataset, known, found), dataset.images, dataset.labels))
    if found.sizes.keys() - known.sizes.keys() or found.rows.keys() - known.rows.keys():
        found.save(path)
    problems = tuple(problem for entry in entries for problem in entry.problems)
    if on_bad == "raise":
        refuse(problems)
    good = [index for index, entry in enumerate(entries) if not entry.problems]
    if not good:
        refuse(problems)
    if not any(entry.has_labels or entry.problems for entry in entries):
        raise DataError(
            f"none of {len(dataset)} images has a label file; the labels of "
            f"{dataset.images[0]} were looked for in {dataset.labels[0]}; put them there (an "
            "empty file for an image without objects)"
        )
    return CheckedDataset(
        dataset=dataclasses.replace(
            dataset,
            images=tuple(dataset.images[index] for index in good),
            labels=tuple(dataset.labels[index] for index in good),
        ),
        labels=tuple(entries[index].rows for index in good),
        sizes=tuple(entries[index].image.size for index in good),
        has_label_file=tuple(entries[index].has_labels for index in good),
        left_out=problems,
        skipped=len(dataset) - len(good),
        unended=sum(entries[index].image.lacks_end for index in good),
    )


_NO_CLASS = np.array([0, 1, 1, 1, 1], np.float32)


@dataclasses.dataclass(frozen=True)
class _Entry:
    image: ExaminedImage
    rows: LabelArray
    has_labels: bool
    problems: tuple[str, ...]


def _checker(dataset: Dataset, known: Index, found: Index) -> Callable[[Path, Path], _Entry]:
    """Return a function that checks an image and its labels, and adds good ones to `found`."""

    def check(image: Path, label: Path) -> _Entry:
        examined, rows, content = ExaminedImage(size=(0, 0)), np.zeros((0, 5), np.float32), None
        problems: list[str] = []
        try:
            examined = examine(image)
        except DataError as error:
            problems.append(str(error))
        try:
            if dataset.coco is not None:
                content = b""
                if not problems:
                    rows, bad = boxes_of(dataset.coco, image, examined)
                    problems += bad
            elif content := read_label_file(label):
                rows, bad = rows_of(label, content)
                problems += bad
        except DataError as error:
            problems.append(str(error))
        return _Entry(examined, rows, content is not None, tuple(problems))

    def examine(image: Path) -> ExaminedImage:
        key = hash_image(image)
        size = None if key is None else known.sizes.get(key)
        if key is None or size is None:
            examined = examine_image(image)
        else:
            examined = ExaminedImage(size=size, lacks_end=key in known.unended)
        if key is not None:
            found.sizes[key] = examined.size
            if examined.lacks_end:
                found.unended.add(key)
        return examined

    def boxes_of(
        coco: CocoSplit, image: Path, examined: ExaminedImage
    ) -> tuple[LabelArray, tuple[str, ...]]:
        rows, problems = coco_rows(coco, image, examined.size)
        return (rows * _NO_CLASS if dataset.label_classes else rows), problems

    def rows_of(label: Path, content: bytes) -> tuple[LabelArray, tuple[str, ...]]:
        key = hash_labels(content)
        rows, problems = known.rows.get(key), tuple[str, ...]()
        num_classes = dataset.label_classes or dataset.num_classes
        # All other checks of labels do not depend on the data set.
        if rows is None or rows[:, 0].max(initial=0) >= num_classes:
            rows, problems = parse_labels(label, content, num_classes)
        if not problems:
            found.rows[key] = rows
        return (rows * _NO_CLASS if dataset.label_classes else rows), problems

    return check


def _index_path(dataset: Dataset) -> Path | None:
    """Return the file of the index; each set of sources has its own, so that none grows."""
    if (folder := cache_folder()) is None:
        return None
    sources = dataset.sources or (dataset.images[0].parent,)
    name = hashlib.sha256(b"\0".join(map(os.fsencode, sources))).hexdigest()[:32]
    return folder / f"{name}.npz"

"""A split whose boxes are in a COCO file: its images, and their boxes as labels."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from exportloss.errors import DataError, excerpt
from exportloss.runtime.data.coco.file import CocoFile, CocoImage, read_coco
from exportloss.runtime.data.coco.json_entries import entry_place
from exportloss.runtime.data.labels import LabelArray

__all__ = ["CocoSplit", "coco_names", "coco_rows", "is_coco", "open_coco"]

_SUFFIX = ".json"
_PREFIX = "instances_"
# Positive fractions below this are zero, or nearly so, as float32.
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CocoSplit:
    """A COCO file and the folder of its images.

    Attributes:
        file: Contents of the COCO file.
        folder: Folder that the image names are relative to.
        images: Entries by image path.
        category_ids: Category id of each class.
        classes: Class of each category, in the order of `CocoFile.categories`.
    """

    file: CocoFile
    folder: Path
    images: Mapping[Path, CocoImage]
    category_ids: tuple[int, ...]
    classes: tuple[int, ...]


def is_coco(source: Path) -> bool:
    """Return whether a split of a `data.yaml` is a COCO file, by its suffix."""
    return source.suffix.lower() == _SUFFIX


def coco_names(source: Path) -> tuple[str, ...]:
    """Return the class names of a COCO file: its categories in the order of their ids.

    Raises:
        DataError: as for `read_coco`.
    """
    return tuple(read_coco(source).categories.values())


def open_coco(
    source: Path, folder: Path | None, *, names: Sequence[str], root: Path, key: str
) -> CocoSplit:
    """Open a COCO file as a split.

    Args:
        source: COCO file, such as `instances_NAME.json` or `NAME.json`.
        folder: Folder of the images; None tries the file's own folder, then `images/NAME`, `NAME`,
            `images` and `.` in `root`, and takes the first that holds the first image.
        names: Class names, in the order of their numbers.
        root: Folder of the data set.
        key: Key of `data.yaml` that names the image folder, for messages.

    Raises:
        DataError: as for `read_coco`; or the folder cannot be found, an image is a link out of it,
            or the categories are not the classes.
    """
    file = read_coco(source)
    by_name = {name: number for number, name in file.categories.items()}
    numbers = {name: number for number, name in enumerate(names)}
    for name in dict.fromkeys((*by_name, *names)):
        if (name in by_name) != (name in numbers):
            where, other = ("`names`", source) if name in numbers else (source, "`names`")
            raise DataError(
                f"{where}: class {excerpt(repr(name))} is not in {other}; make the names agree, or "
                "remove `names` to take them from the file"
            )
    folder = folder or _find_folder(file, root, key)
    images = {folder / image.file_name: image for image in file.images}
    _refuse_links_out(images, folder, source)
    return CocoSplit(
        file=file,
        folder=folder,
        images=images,
        category_ids=tuple(by_name[name] for name in names),
        classes=tuple(numbers[name] for name in by_name),
    )


def coco_rows(
    split: CocoSplit, path: Path, size: tuple[int, int]
) -> tuple[LabelArray, tuple[str, ...]]:
    """Return the boxes of an image as rows of a label file.

    Boxes are clipped to the image, and duplicates count once, as in label files. Centre and size
    are computed in float64 and rounded to float32 once, so that they equal those of a label file
    with enough digits.

    Args:
        split: Split that holds the image.
        path: Path of the image.
        size: (height, width) of the decoded image, pixels.

    Returns:
        (n, 5) rows as from `read_labels`, and `file: what` for every problem.
    """
    image, source = split.images[path], split.file.source
    problems = list(image.problems)
    if image.size not in (None, size):
        problems.append(
            f"{source}: image id {image.id} has height and width {image.size}, but {path} has "
            f"{size}; its boxes are for another size"
        )
    rows: dict[tuple[float, ...], None] = {}
    boxes = zip(
        image.categories.tolist(), image.boxes.tolist(), image.positions.tolist(), strict=True
    )
    for category, box, position in boxes:
        row = _as_fractions(box, size)
        if min(row[2:]) < _SMALLEST:
            problems.append(
                f"{source}: {entry_place('annotations', position)}: box {excerpt(str(box))} lies "
                f"outside the image of height and width {size}"
            )
        else:
            labelled = (split.classes[category], *row)
            rows[labelled] = None
    return np.array(list(rows), dtype=np.float32).reshape(-1, 5), tuple(problems)


def _as_fractions(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return x, y of the centre, width and height as fractions of the image."""
    (x, width), (y, height) = (
        _clipped(start, length, side)
        for start, length, side in zip(box[:2], box[2:], size[::-1], strict=True)
    )
    return x, y, width, height


def _clipped(start: float, length: float, side: int) -> tuple[float, float]:
    """Clip an interval to [0, side]; return its centre and length as fractions of the side."""
    end = start + length
    if start < 0 or end > side:
        start, end = max(start, 0.0), min(end, float(side))
        length = end - start
        return (start + end) / 2 / side, length / side
    return (start + length / 2) / side, length / side


def _find_folder(file: CocoFile, root: Path, key: str) -> Path:
    source, first = file.source, file.images[0].file_name
    name = source.stem.removeprefix(_PREFIX)
    places = source.parent, root / "images" / name, root / name, root / "images", root
    for place in places:
        if os.path.isfile(place / first):  # noqa: PTH113 - never raises
            return place
    listed = ", ".join(map(str, dict.fromkeys(places)))
    raise DataError(
        f"{source}: image {excerpt(ascii(first))} is in none of {listed}; name the folder of the "
        f"images with `{key}:`"
    )


def _refuse_links_out(images: Mapping[Path, CocoImage], folder: Path, source: Path) -> None:
    """Refuse links out of the folder: otherwise the COCO file could have any file opened."""
    inside = os.path.realpath(folder)
    holders: dict[Path, str] = {}
    for path, image in images.items():
        if (holder := holders.get(path.parent)) is None:
            holder = holders[path.parent] = os.path.realpath(path.parent)
        is_link = os.path.islink(path)  # noqa: PTH114
        real = os.path.realpath(path) if is_link else os.path.join(holder, path.name)  # noqa: PTH118
        if os.path.commonpath((inside, real)) != inside:
            raise DataError(
                f"{source}: image id {image.id}: {excerpt(ascii(image.file_name))} is a link that "
                f"leads out of {folder}; put the image there"
            )

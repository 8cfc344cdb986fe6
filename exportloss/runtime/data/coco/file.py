"""COCO's annotation files (`instances_train.json`), read and checked within limits."""

from __future__ import annotations

import dataclasses
import functools
import os
from array import array
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.class_names import LONGEST_NAME, bad_name
from exportloss.errors import DataError, excerpt
from exportloss.runtime.artifact.limits import MAX_CLASSES, MAX_IMAGE_SIDE
from exportloss.runtime.data.coco.fields import name_problem, read_box, refuse_same_names
from exportloss.runtime.data.coco.json_entries import entry_place, read_entries
from exportloss.runtime.data.labels import MAX_LABEL_LINES

__all__ = ["MAX_ANNOTATIONS", "MAX_IMAGES", "CocoFile", "CocoImage", "forget", "read_coco"]

MAX_IMAGES = 1 << 22
MAX_ANNOTATIONS = 1 << 25

_LISTS = frozenset({"images", "annotations", "categories"})
_MOST_PROBLEMS = 10_000
_ID_BITS = 63
_KEPT = 4  # files; a data set has three splits


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CocoImage:
    """An entry of `images`, with the boxes of its entries in `annotations`.

    Attributes:
        id: Id of the image in the file.
        file_name: Path relative to the image folder, without `..`.
        size: (height, width) that the file states, pixels; None if it states none.
        categories: (n,) int64 index of each box's category in `CocoFile.categories`.
        boxes: (n, 4) left, top, width, height, pixels of the image, finite; width and height
            above 0. Crowds and empty boxes are skipped.
        positions: (n,) int64 index of each box in `annotations`.
        problems: `file: annotations[place]: what` for each bad entry.
    """

    id: int
    file_name: str
    size: tuple[int, int] | None
    categories: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    positions: npt.NDArray[np.int64]
    problems: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CocoFile:
    """Contents of an annotation file.

    Attributes:
        source: Path of the file.
        images: Images in the order of the file.
        categories: Category names by id, in the order of the ids.
        crowds: Number of boxes skipped because they stand for a crowd (`iscrowd`).
        empty: Number of boxes skipped because a side is 0.
        strays: Number of annotations skipped because they belong to no image of the file.
    """

    source: Path
    images: tuple[CocoImage, ...]
    categories: Mapping[int, str]
    crowds: int
    empty: int
    strays: int


def read_coco(path: Path) -> CocoFile:
    """Read a COCO annotation file; an unchanged file is read once and kept.

    Raises:
        DataError: the file is missing, too large or no COCO file; an image or category is bad or
            there twice; an image path leads out of the image folder; or more than 10,000
            annotations are bad. Up to that, they become problems of their images.
    """
    identity: tuple[int, ...] = ()
    try:
        status = os.stat(path)  # noqa: PTH116 - raises ValueError for a NUL
        identity = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    except (OSError, ValueError):
        pass  # the reader reports what is wrong
    return _read(path, identity)


def forget() -> None:
    """Forget all files read, so that they are read again even if their times are unchanged."""
    _read.cache_clear()


@functools.lru_cache(maxsize=_KEPT)
def _read(path: Path, _identity: tuple[int, ...]) -> CocoFile:
    reader = _Reader(path)
    for key, position, entry in read_entries(path, _LISTS):
        if not isinstance(entry, dict):
            reader.refuse(key, position, entry, "expected an object")
        getattr(reader, f"take_{key}")(position, entry)
    return reader.file()


class _Reader:
    """Collects the entries of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._images: dict[int, tuple[str, tuple[int, int] | None]] = {}
        self._names: set[str] = set()
        self._categories: dict[int, str] = {}
        self._ids: set[int] = set()
        self._numbers, self._sides = array("q"), array("d")  # 3 and 4 entries per box
        self._bad: list[tuple[int, str]] = []
        self._of_crowds, self._of_empty = array("q"), array("q")  # image ids

    def refuse(self, key: str, position: int, value: object, expected: str) -> None:
        raise DataError(
            f"{self._path}: {entry_place(key, position)} is {excerpt(ascii(value))}; {expected}"
        )

    def take_images(self, position: int, entry: dict[str, Any]) -> None:
        where = f"{self._path}: {entry_place('images', position)}"
        if len(self._images) == MAX_IMAGES:
            raise DataError(f"{where}: more than {MAX_IMAGES} images; split the file")
        number, name = self._id(entry.get("id"), f"{where}: `id`"), entry.get("file_name")
        where = f"{where} (id {number})"
        if number in self._images:
            raise DataError(f"{where}: `id` is there twice; give each image its own")
        if problem := name_problem(name):
            raise DataError(f"{where}: `file_name` {excerpt(ascii(name))} {problem}")
        assert isinstance(name, str)
        if (name := str(PurePosixPath(name))) in self._names:
            raise DataError(f"{where}: `file_name` {excerpt(ascii(name))} is there twice; keep one")
        sides = entry.get("height"), entry.get("width")
        for side in sides:
            if side is not None and not (type(side) is int and 1 <= side <= MAX_IMAGE_SIDE):
                raise DataError(
                    f"{where}: height and width are {excerpt(ascii(sides))}; expected whole "
                    f"numbers from 1 to {MAX_IMAGE_SIDE}, or neither"
                )
        self._names.add(name)
        height, width = sides
        self._images[number] = (
            name,
            None if height is None or width is None else (height, width),
        )

    def take_categories(self, position: int, entry: dict[str, Any]) -> None:
        where = f"{self._path}: {entry_place('categories', position)}"
        if len(self._categories) == MAX_CLASSES:
            raise DataError(f"{where}: more than {MAX_CLASSES} categories; remove some")
        number, name = self._id(entry.get("id"), f"{where}: `id`"), entry.get("name")
        if not isinstance(name, str) or not name or bad_name([name]) is not None:
            raise DataError(
                f"{where} (id {number}): `name` is {excerpt(ascii(name))}; expected printable "
                f"text of 1 to {LONGEST_NAME} characters"
            )
        if number in self._categories:
            raise DataError(f"{where}: id {number} is there twice; keep one")
        self._categories[number] = name

    def take_annotations(self, position: int, entry: dict[str, Any]) -> None:
        where = f"{self._path}: {entry_place('annotations', position)}"
        if position == MAX_ANNOTATIONS:
            raise DataError(f"{where}: more than {MAX_ANNOTATIONS} annotations; split the file")
        if (number := entry.get("id")) is not None:
            self._id(number, f"{where}: `id`")
            if number in self._ids:
                raise DataError(f"{where}: id {number} is there twice; give each its own")
            self._ids.add(number)
            where = f"{where} (id {number})"
        image = self._id(entry.get("image_id"), f"{where}: `image_id`")
        try:
            category = self._id(entry.get("category_id"), "`category_id`")
            crowd, box = entry.get("iscrowd", 0), read_box(entry.get("bbox"))
            if crowd not in (0, 1):
                raise ValueError(f"`iscrowd` is {excerpt(ascii(crowd))}; expected 0 or 1")
        except ValueError as error:
            self._note(image, f"{where}: {error}")
            return
        if crowd:
            self._of_crowds.append(image)
        elif not (box[2] and box[3]):
            self._of_empty.append(image)
        else:
            self._numbers.extend((image, category, position))
            self._sides.extend(box)

    def file(self) -> CocoFile:
        """Join the entries collected.

        Raises:
            DataError: there is no image or no category, or two categories have the same name.
        """
        if not self._images or not self._categories:
            raise DataError(
                f"{self._path}: {len(self._images)} images and {len(self._categories)} categories; "
                "expected a COCO file with the lists `images`, `annotations` and `categories`"
            )
        categories = dict(sorted(self._categories.items()))
        refuse_same_names(self._path, categories)
        numbers = np.frombuffer(self._numbers, np.int64).reshape(-1, 3)
        boxes = np.frombuffer(self._sides, np.float64).reshape(-1, 4)
        ids = np.fromiter(categories, np.int64, len(categories))
        places = np.minimum(np.searchsorted(ids, numbers[:, 1]), len(ids) - 1)
        known = np.fromiter(sorted(self._images), np.int64, len(self._images))
        for row in np.flatnonzero(ids[places] != numbers[:, 1]):
            image, category, position = numbers[row].tolist()
            if image in self._images:
                self._note(
                    image,
                    f"{self._path}: {entry_place('annotations', position)}: `category_id` "
                    f"{category} is not among the categories",
                )
        order = np.argsort(numbers[:, 0], kind="stable")
        sorted_ids = numbers[order, 0]
        starts, ends = (np.searchsorted(sorted_ids, known, side) for side in ("left", "right"))
        spans = dict(
            zip(
                known.tolist(),
                zip(starts.tolist(), ends.tolist(), strict=True),
                strict=True,
            )
        )
        crowds, empty = (
            int(np.isin(np.frombuffer(found, np.int64), known).sum())
            for found in (self._of_crowds, self._of_empty)
        )
        strays = len(numbers) - int((ends - starts).sum())
        strays += len(self._of_crowds) + len(self._of_empty) - crowds - empty
        problems: dict[int, list[str]] = {}
        for image, problem in self._bad:
            problems.setdefault(image, []).append(problem)
        images = []
        for number, (name, size) in self._images.items():
            rows = order[slice(*spans[number])]
            images.append(
                CocoImage(
                    id=number,
                    file_name=name,
                    size=size,
                    categories=places[rows],
                    boxes=boxes[rows],
                    positions=numbers[rows, 2],
                    problems=(*problems.get(number, ()), *self._too_many(number, len(rows))),
                )
            )
        return CocoFile(
            source=self._path,
            images=tuple(images),
            categories=categories,
            crowds=crowds,
            empty=empty,
            strays=strays + sum(image not in self._images for image, _ in self._bad),
        )

    def _too_many(self, image: int, boxes: int) -> tuple[str, ...]:
        if boxes <= MAX_LABEL_LINES:
            return ()
        problem = f"image id {image} has {boxes} boxes; expected at most {MAX_LABEL_LINES}"
        return (f"{self._path}: {problem}",)

    def _note(self, image: int, problem: str) -> None:
        self._bad.append((image, problem))
        if len(self._bad) > _MOST_PROBLEMS:
            raise DataError(f"{problem}; and {_MOST_PROBLEMS} more annotations are bad")

    def _id(self, value: object, what: str) -> int:
        if type(value) is not int or not -(1 << _ID_BITS) <= value < 1 << _ID_BITS:
            raise DataError(f"{what} is {excerpt(ascii(value))}; expected a whole number")
        return value

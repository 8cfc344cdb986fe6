"""Batches of a data set in the one shape that a graph takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.runtime.artifact.limits import check_threads
from exportloss.runtime.data.augment import (
    Augmentation,
    Recipe,
    draw_recipe,
    make_image,
    make_labels,
)
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.dataset_check import OnBad, check_dataset
from exportloss.runtime.data.decoded_images import Cache, DecodedImages
from exportloss.runtime.data.image_weights import ImageWeights
from exportloss.runtime.data.labels import LabelArray
from exportloss.runtime.data.read_ahead import map_ahead
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.resize import ImageArray

__all__ = ["Batch", "Batches", "Cache"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images and targets of one step.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, contiguous.
        targets: (n, 6) float32 rows image, class, x, y, width, height; image in [0, B), x, y the
            centre, all four fractions of W and H.
        paths: The B image files; the first image of each mosaic.
        letterboxes: Position of each image on its canvas; empty with augmentation, which cannot be
            undone.
        count: Number of real images, which come first; the other B - count repeat images of the
            same epoch, with their targets, to fill the batch.
        waited: Seconds that the consumer waited for the batch.
    """

    images: ImageArray
    targets: npt.NDArray[np.float32]
    paths: tuple[Path, ...]
    letterboxes: tuple[Letterbox, ...]
    count: int
    waited: float = 0.0


@dataclasses.dataclass(frozen=True)
class _PlannedImage:
    index: int  # in the data set
    epoch: int
    place: int  # in the epoch
    pool: Sequence[int]  # indices from which the other images of a mosaic are drawn


@dataclasses.dataclass(frozen=True)
class _Image:
    image: ImageArray  # (3, H, W)
    labels: LabelArray  # (n, 5)
    path: Path
    letterbox: Letterbox | None


class Batches:
    """The batches of a data set, epoch by epoch; all have exactly `batch_size` images.

    A graph's shapes are fixed, so the last, incomplete batch of an epoch is filled with the first
    images of the epoch's order: `Batch.count` is the number of images that are not repeats, and an
    epoch has ceil(images / batch_size) batches. A repeated image is augmented differently.
    `drop_last=True` skips that batch instead, which with `shuffle` is another part of the data in
    each epoch; a data set smaller than one batch is still repeated to fill one.

    Order and augmentation of epoch e depend only on (seed, e) and the image's place in the epoch,
    so a resumed run sees the same batches as an uninterrupted one, with any number of workers.
    With weighted images the order also depends on the class mAPs that `epoch` is given.

    Args:
        dataset: Data set; all its images and labels are checked first, see `check_dataset`.
        batch_size: Images per batch, >= 1.
        size: (height, width) of the graph's input, pixels.
        shuffle: True to draw a new order for each epoch.
        seed: Seed of order and augmentation, >= 0.
        augment: Augmentations; None only letterboxes the images.
        drop_last: True to skip the last, incomplete batch.
        image_weights: True to draw the images of an epoch with replacement, by `ImageWeights`; the
            other images of a mosaic are then drawn from the epoch's.
        workers: Number of threads that decode images ahead, >= 1.
        cache: `"ram"` keeps the decoded images, at the size of training, in memory; `"disk"` keeps
            them as files in the user's cache folder, see `exportloss.runtime.data.image_cache`.
        on_bad: `"raise"` to refuse a data set with bad images or labels, `"skip"` to skip them.
        tell: Function called once, between two batches, with the reason why decoded images are no
            longer kept on disk.

    Attributes:
        dataset: Data set without the skipped images.
        labels: (n, 5) rows of each image, as from `read_labels`.
        sizes: (height, width) of each image, pixels.
        has_label_file: Flag per image: it has a label file, possibly an empty one.
        left_out: Problems of the skipped images, each with file and line.
        skipped: Number of skipped images.
        image_weights: Weights by which images are drawn; None if every image comes once.
        unended: Number of JPEG files without an end marker.

    Raises:
        ConfigError: a setting is out of range, or the images do not fit into memory.
        DataError: images or labels are bad; the message lists them.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        size: tuple[int, int],
        *,
        shuffle: bool = False,
        seed: int = 0,
        augment: Augmentation | None = None,
        drop_last: bool = False,
        image_weights: bool = False,
        workers: int = 2,
        cache: Cache = "none",
        on_bad: OnBad = "raise",
        tell: Callable[[str], object] | None = None,
    ) -> None:
        at_least(1, batch_size=batch_size, size=min(size))
        at_least(0, seed=seed)
        check_threads("workers", workers)
        if cache not in get_args(Cache):
            raise ConfigError(f"cache is {cache!r}; expected one of {get_args(Cache)}")
        checked = check_dataset(dataset, on_bad=on_bad, workers=workers)
        self.dataset = checked.dataset
        self.labels = checked.labels
        self.sizes = checked.sizes
        self.has_label_file = checked.has_label_file
        self.left_out = checked.left_out
        self.skipped = checked.skipped
        self.unended = checked.unended
        self.batch_size = batch_size
        self.size = size
        self.augment = augment
        self.image_weights = (
            ImageWeights.of(self.labels, len(self.dataset.names)) if image_weights else None
        )
        self._shuffle = shuffle
        self._seed = seed
        self._drop_last = drop_last
        self._workers = workers
        self._tell = tell
        self._images = DecodedImages(
            self.dataset.images, self.sizes, size, linear=augment is not None, cache=cache
        )

    def __len__(self) -> int:
        """Batches per epoch, >= 1."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return max(whole, 1) if self._drop_last else whole + (rest > 0)

    @property
    def most_images(self) -> int:
        """Most images of the data set that are composed into one image of a batch."""
        return 1 if self.augment is None else self.augment.most_images

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of epoch 0, as evaluation needs them."""
        return self.epoch(0)

    def epoch(
        self,
        epoch: int,
        *,
        class_map: Sequence[float] | None = None,
        only: Sequence[int] | None = None,
    ) -> Generator[Batch]:
        """Yield the batches of one epoch.

        Args:
            epoch: Number of the epoch, >= 0.
            class_map: (nc,) mAP50-95 of each class at the last validation, for weighted images;
                None before the first one.
            only: Numbers of the batches to yield, in [0, len), in this order; the images of no
                other are decoded. None for all.

        Raises:
            ConfigError: `class_map` has another length than the classes.
            DataError: an image can no longer be decoded; raised in place of its batch.
        """
        plan, size = self._plan(epoch, class_map), self.batch_size
        numbers = range(len(self)) if only is None else only
        planned = [one for number in numbers for one in plan[number * size : (number + 1) * size]]
        make = self._letterbox if self.augment is None else self._augment
        with (
            ThreadPoolExecutor(self._workers, thread_name_prefix="decode") as pool,
            contextlib.closing(map_ahead(pool, make, planned, depth=2 * self.batch_size)) as images,
        ):
            for number in numbers:
                count = min(self.batch_size, len(self.dataset) - number * self.batch_size)
                started = time.perf_counter()
                batch = _collate(list(itertools.islice(images, self.batch_size)), count)
                self._tell_problem()
                yield dataclasses.replace(batch, waited=time.perf_counter() - started)

    def order(self, epoch: int, *, class_map: Sequence[float] | None = None) -> list[int]:
        """Return the image of each place of an epoch's batches, (len * batch_size,)."""
        return [one.index for one in self._plan(epoch, class_map)]

    def without_images(self, images: Sequence[int]) -> Batch:
        """Return a batch of these images with their targets, without their pixels.

        Only for batches without augmentation, or whose augmentation changes nothing.
        """
        none = np.empty((3, 0, 0), np.uint8)
        found = []
        for index in images:
            box = None
            if self.augment is None:
                box = self.place(index)
                labels = box.map_labels(self.labels[index])
            else:
                planned = _PlannedImage(index, epoch=0, place=0, pool=[index])
                labels = make_labels(self._recipe(planned, self.augment), self.labels)
            found.append(_Image(none, labels, self.dataset.images[index], box))
        return _collate(found, len(images))

    def _tell_problem(self) -> None:
        if self._images.problem and self._tell is not None:
            tell, self._tell = self._tell, None
            tell(self._images.problem)

    def place(self, index: int) -> Letterbox:
        """Return the position of an image on its canvas, without augmentation."""
        return self._images.place(index)

    def target_counts(self, epoch: int, *, batches: int) -> list[int]:
        """Return the number of target rows of the first batches of an epoch; decodes no image.

        Weighted images are drawn as before the first validation.
        """
        planned = self._plan(epoch, None)[: batches * self.batch_size]
        counts = [
            len(self.labels[one.index])
            if self.augment is None
            else len(make_labels(self._recipe(one, self.augment), self.labels))
            for one in planned
        ]
        starts = range(0, len(counts), self.batch_size)
        return [sum(counts[start : start + self.batch_size]) for start in starts]

    def _plan(self, epoch: int, class_map: Sequence[float] | None) -> list[_PlannedImage]:
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch]))
        images = len(self.dataset)
        pool: Sequence[int] = range(images)
        if self.image_weights is not None:
            order = self.image_weights.draw(class_map, rng)
            pool = order.tolist()
        else:
            order = rng.permutation(images) if self._shuffle else np.arange(images)
        order = np.resize(order, len(self) * self.batch_size)  # repeats from its start
        return [
            _PlannedImage(index, epoch, place, pool) for place, index in enumerate(order.tolist())
        ]

    def _letterbox(self, planned: _PlannedImage) -> _Image:
        box = self.place(planned.index)
        return _Image(
            _planes(box.place(self._images.load(planned.index))),
            box.map_labels(self.labels[planned.index]),
            self.dataset.images[planned.index],
            box,
        )

    def _augment(self, planned: _PlannedImage) -> _Image:
        assert self.augment is not None
        recipe = self._recipe(planned, self.augment)
        return _Image(
            _planes(make_image(recipe, self._images.load)),
            make_labels(recipe, self.labels),
            self.dataset.images[planned.index],
            None,
        )

    def _recipe(self, planned: _PlannedImage, augment: Augmentation) -> Recipe:
        seed = np.random.SeedSequence([self._seed, planned.epoch], spawn_key=(planned.place,))
        rng = np.random.default_rng(seed)
        return draw_recipe(planned.index, self.sizes, self.size, augment, rng, pool=planned.pool)


def _planes(image: Image.Image) -> ImageArray:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # (3, H, W)


def _collate(images: list[_Image], count: int) -> Batch:
    targets = [np.insert(image.labels, 0, i, axis=1) for i, image in enumerate(images)]
    return Batch(
        images=np.stack([image.image for image in images]),
        targets=np.concatenate(targets),
        paths=tuple(image.path for image in images),
        letterboxes=tuple(image.letterbox for image in images if image.letterbox),
        count=count,
    )

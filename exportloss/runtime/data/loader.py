"""Batches of a data set in the one shape a graph takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar, get_args

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
from exportloss.runtime.data.image_cache import ImageCache
from exportloss.runtime.data.image_weights import ImageWeights
from exportloss.runtime.data.labels import LabelArray
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.load import ImageArray, load_scaled
from exportloss.system import available_bytes

__all__ = ["Batch", "Batches", "Cache"]

Cache = Literal["none", "ram", "disk"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

_GIBIBYTE = 1 << 30
_MOST_OF_MEMORY = 0.8  # of what is free, for images


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Images and targets of one step.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, contiguous.
        targets: (n, 6) float32 rows image, class, x, y, width, height; image in [0, B), the
            boxes as shares of H and W, x and y the centre.
        paths: The B image files; of a mosaic the first one.
        letterboxes: Where on its canvas each image lies; empty with augmentation, from which
            there is no way back.
        count: Real images, the first ones; the other B - count repeat images of the same
            epoch to fill the batch, with their targets.
        waited: Seconds that whoever asked for the batch waited for it.
    """

    images: ImageArray
    targets: npt.NDArray[np.float32]
    paths: tuple[Path, ...]
    letterboxes: tuple[Letterbox, ...]
    count: int
    waited: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Slot:
    index: int  # of the image in the data set
    epoch: int
    place: int  # in the epoch
    pool: Sequence[int]  # indices that the other images of a mosaic are drawn from


@dataclasses.dataclass(frozen=True)
class _Image:
    image: ImageArray  # (3, H, W)
    labels: LabelArray  # (n, 5)
    path: Path
    letterbox: Letterbox | None


class Batches:
    """The batches of a data set, epoch by epoch; all have exactly `batch_size` images.

    A graph's shapes are fixed, so the last, incomplete batch of an epoch is filled with the first
    images of the epoch's order: `Batch.count` is the number of those that are not repeated, and an
    epoch has ceil(images / batch_size) batches. With augmentation a repeated image gets another
    one. `drop_last=True` skips that batch instead, with `shuffle` another part of the data in each
    epoch; a data set smaller than one batch is still repeated to fill one.

    Order and augmentation of epoch e depend on (seed, e) and an image's place in it alone, so a
    resumed run sees what an uninterrupted one would have, with any number of workers. Where images
    are weighted, the order depends on the class mAPs that `epoch` is given, too.

    Args:
        dataset: The images; all are decoded once and all labels read, see `check_dataset`.
        batch_size: Images a batch, >= 1.
        size: (height, width) of the graph's input, pixels.
        shuffle: Draw a new order for each epoch.
        seed: Of order and augmentation, >= 0.
        augment: What images are put through; None letterboxes them only.
        drop_last: Skip the last, incomplete batch, as `exportloss train` once did.
        image_weights: Draw the images of an epoch with replacement, by `ImageWeights`; the others
            of a mosaic are then drawn from those of the epoch.
        workers: Threads that decode images ahead, >= 1.
        cache: `"ram"` keeps the decoded images, at the size at which they are trained on, in
            memory; `"disk"` keeps them as files in the user's cache folder, see
            `exportloss.runtime.data.image_cache`.
        on_bad: Refuse a data set with bad images or labels, or leave those out.
        tell: Told, between two batches, why decoded images are no longer kept on the disk; once.

    Attributes:
        dataset: Without what was left out.
        labels: (n, 5) rows of each image, as from `read_labels`.
        sizes: (height, width) of each image, pixels.
        has_label_file: Whether each image has a label file, be it an empty one.
        left_out: What was wrong with the images that were left out, each with file and line.
        skipped: How many images were left out.
        image_weights: Weights by which images are drawn; None where every image comes once.
        unended: Number of JPEG files without an end marker.

    Raises:
        ConfigError: a setting is out of range, or the images do not fit into memory.
        DataError: images or labels are bad; all are named.
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
        self._disk: ImageCache | None = None
        if cache == "disk":
            self._disk = ImageCache(size, linear=augment is not None)
        self._kept: list[ImageArray | None] | None = None
        if cache == "ram":
            _check_memory([self.place(index).scaled for index in range(len(self.dataset))])
            self._kept = [None] * len(self.dataset)

    def __len__(self) -> int:
        """Batches an epoch, >= 1."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return max(whole, 1) if self._drop_last else whole + (rest > 0)

    @property
    def most_images(self) -> int:
        """How many images of the data set can come together in one of a batch."""
        return 1 if self.augment is None else self.augment.most_images

    def __iter__(self) -> Iterator[Batch]:
        """Run through epoch 0: what evaluation wants."""
        return self.epoch(0)

    def epoch(self, epoch: int, *, class_map: Sequence[float] | None = None) -> Generator[Batch]:
        """Run through the batches of one epoch.

        Args:
            epoch: Number of the epoch, >= 0.
            class_map: (nc,) mAP50-95 of each class at the last validation, for weighted images;
                None before the first one.

        Raises:
            ConfigError: `class_map` is for another number of classes.
            DataError: an image cannot be decoded any more; raised in place of the batch that
                holds it.
        """
        slots = self._plan(epoch, class_map)
        make = self._letterbox if self.augment is None else self._augment
        with (
            ThreadPoolExecutor(self._workers, thread_name_prefix="decode") as pool,
            contextlib.closing(_map_ahead(pool, make, slots, depth=2 * self.batch_size)) as images,
        ):
            for number in range(len(self)):
                count = min(self.batch_size, len(self.dataset) - number * self.batch_size)
                started = time.perf_counter()
                batch = _collate(list(itertools.islice(images, self.batch_size)), count)
                self._tell_problem()
                yield dataclasses.replace(batch, waited=time.perf_counter() - started)

    def _tell_problem(self) -> None:
        if self._disk is not None and self._disk.problem and self._tell is not None:
            tell, self._tell = self._tell, None
            tell(self._disk.problem)

    def place(self, index: int) -> Letterbox:
        """Return where an image lies on its canvas, without augmentation."""
        return Letterbox.fit(self.sizes[index], self.size, truncate=True)

    def target_counts(self, epoch: int, *, batches: int) -> list[int]:
        """Return how many target rows the first batches of an epoch have; decodes nothing.

        Of an epoch before the first validation, where images are weighted.
        """
        slots = self._plan(epoch, None)[: batches * self.batch_size]
        counts = [
            len(self.labels[slot.index])
            if self.augment is None
            else len(make_labels(self._recipe(slot, self.augment), self.labels))
            for slot in slots
        ]
        starts = range(0, len(counts), self.batch_size)
        return [sum(counts[start : start + self.batch_size]) for start in starts]

    def _plan(self, epoch: int, class_map: Sequence[float] | None) -> list[_Slot]:
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch]))
        images = len(self.dataset)
        pool: Sequence[int] = range(images)
        if self.image_weights is not None:
            order = self.image_weights.draw(class_map, rng)
            pool = order.tolist()
        else:
            order = rng.permutation(images) if self._shuffle else np.arange(images)
        order = np.resize(order, len(self) * self.batch_size)  # repeats from its start
        return [_Slot(index, epoch, place, pool) for place, index in enumerate(order.tolist())]

    def _letterbox(self, slot: _Slot) -> _Image:
        box = self.place(slot.index)
        return _Image(
            _planes(box.place(self._load(slot.index))),
            box.map_labels(self.labels[slot.index]),
            self.dataset.images[slot.index],
            box,
        )

    def _augment(self, slot: _Slot) -> _Image:
        assert self.augment is not None
        recipe = self._recipe(slot, self.augment)
        return _Image(
            _planes(make_image(recipe, self._load)),
            make_labels(recipe, self.labels),
            self.dataset.images[slot.index],
            None,
        )

    def _recipe(self, slot: _Slot, augment: Augmentation) -> Recipe:
        seed = np.random.SeedSequence([self._seed, slot.epoch], spawn_key=(slot.place,))
        rng = np.random.default_rng(seed)
        return draw_recipe(slot.index, self.sizes, self.size, augment, rng, pool=slot.pool)

    def _load(self, index: int) -> Image.Image:
        """Return an image scaled to fit the canvas."""
        if self._kept is not None and (kept := self._kept[index]) is not None:
            return Image.fromarray(kept)
        if self._disk is not None:
            pixels = self._disk.load(
                self.dataset.images[index],
                self.place(index).scaled,
                lambda: np.asarray(self._decode(index)),
            )
            return Image.fromarray(pixels)
        image = self._decode(index)
        if self._kept is not None:
            self._kept[index] = np.asarray(image)
        return image

    def _decode(self, index: int) -> Image.Image:
        return load_scaled(
            self.dataset.images[index],
            self.size,
            linear=self.augment is not None,
            source=self.sizes[index],
        )


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


def _check_memory(sizes: Iterable[tuple[int, int]]) -> None:
    needed = 3 * sum(height * width for height, width in sizes)
    free = available_bytes()
    if free is not None and needed > _MOST_OF_MEMORY * free:
        raise ConfigError(
            f'cache "ram" needs {needed / _GIBIBYTE:.1f} GiB for the decoded images, '
            f"{free / _GIBIBYTE:.1f} GiB of memory are free; leave it out"
        )


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[_In], _Out], items: Iterable[_In], *, depth: int
) -> Generator[_Out]:
    """Yield `function(item)` in order, with at most `depth` results waiting.

    An exception of the function is raised where its result would have come.
    """
    pending: deque[Future[_Out]] = deque()
    try:
        for item in items:
            if len(pending) == depth:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()

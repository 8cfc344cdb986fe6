"""Batches of a data set in the one shape a graph takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError
from exportloss.runtime.dataset import Dataset
from exportloss.runtime.images import ImageArray, Letterbox, letterbox, load_image
from exportloss.runtime.labels import LabelArray, check_dataset

__all__ = ["Batch", "Batches"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Pictures and targets of one step.

    Attributes:
        images: (B, 3, H, W) uint8 RGB, contiguous.
        targets: (n, 6) float32 rows image, class, x, y, width, height; image in [0, B), the
            boxes as shares of H and W, x and y the centre.
        paths: the B picture files.
        letterboxes: where on its canvas each picture lies, before flips.
        count: real pictures, the first ones; the other B - count repeat pictures of the same
            epoch to fill the batch, with their targets.
    """

    images: ImageArray
    targets: npt.NDArray[np.float32]
    paths: tuple[Path, ...]
    letterboxes: tuple[Letterbox, ...]
    count: int


@dataclasses.dataclass(frozen=True)
class _Slot:
    index: int  # of the picture in the data set
    fliplr: bool
    flipud: bool


@dataclasses.dataclass(frozen=True)
class _Picture:
    image: ImageArray  # (H, W, 3)
    labels: LabelArray  # (n, 5)
    path: Path
    letterbox: Letterbox


class Batches:
    """The batches of a data set, epoch by epoch; all have exactly `batch_size` pictures.

    A graph's shapes are fixed, so the last, incomplete batch of an epoch is either left out
    (`drop_last=True`, for training: with `shuffle` another part of the data each epoch) or filled
    with repeated pictures (`drop_last=False`, for evaluation: `Batch.count` says how many are
    real). A data set smaller than one batch is repeated to fill one in both cases, so that it can
    be trained on.

    Order and flips of epoch e depend on (seed, e) alone, so a resumed run sees what an
    uninterrupted one would have.

    Args:
        dataset: the pictures; all labels are read and checked here.
        batch_size: pictures a batch, >= 1.
        size: (height, width) of the graph's input, pixels.
        shuffle: draw a new order for each epoch.
        seed: of order and flips, >= 0.
        fliplr: probability of a mirrored picture, in [0, 1].
        flipud: probability of an upside-down picture, in [0, 1].
        drop_last: see above.
        workers: threads that decode pictures ahead, >= 1.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a label file has bad lines; all are named.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        size: tuple[int, int],
        *,
        shuffle: bool = False,
        seed: int = 0,
        fliplr: float = 0.0,
        flipud: float = 0.0,
        drop_last: bool = False,
        workers: int = 2,
    ) -> None:
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("size", min(size), 1),
            ("seed", seed, 0),
            ("workers", workers, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} is {value}; expected at least {least}")
        for name, probability in (("fliplr", fliplr), ("flipud", flipud)):
            if not 0 <= probability <= 1:
                raise ConfigError(f"{name} is {probability}; expected a probability in [0, 1]")
        self.dataset = dataset
        self.batch_size = batch_size
        self.size = size
        self.labels = check_dataset(dataset)
        self._shuffle = shuffle
        self._seed = seed
        self._flips = fliplr, flipud
        self._drop_last = drop_last
        self._workers = workers

    def __len__(self) -> int:
        """Batches an epoch, >= 1."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return max(whole, 1) if self._drop_last else whole + (rest > 0)

    def __iter__(self) -> Iterator[Batch]:
        """Run through epoch 0: what evaluation wants."""
        return self.epoch(0)

    def epoch(self, epoch: int) -> Generator[Batch]:
        """Run through the batches of one epoch, epoch >= 0.

        Raises:
            DataError: a picture cannot be decoded; raised in place of the batch that holds it.
        """
        slots = self._plan(epoch)
        with (
            ThreadPoolExecutor(self._workers, thread_name_prefix="decode") as pool,
            contextlib.closing(
                _map_ahead(pool, self._load, slots, depth=2 * self.batch_size)
            ) as pictures,
        ):
            for number in range(len(self)):
                count = min(self.batch_size, len(self.dataset) - number * self.batch_size)
                yield _collate(list(itertools.islice(pictures, self.batch_size)), count)

    def _plan(self, epoch: int) -> list[_Slot]:
        rng = np.random.default_rng(np.random.SeedSequence([self._seed, epoch]))
        pictures = len(self.dataset)
        order = rng.permutation(pictures) if self._shuffle else np.arange(pictures)
        order = np.resize(order, len(self) * self.batch_size)  # repeats from its start
        flips = rng.random((len(order), 2)) < self._flips
        return [
            _Slot(int(index), bool(lr), bool(ud))
            for index, (lr, ud) in zip(order, flips, strict=True)
        ]

    def _load(self, slot: _Slot) -> _Picture:
        path = self.dataset.images[slot.index]
        image, box = letterbox(load_image(path), self.size)
        labels = box.map_labels(self.labels[slot.index])
        if slot.fliplr:
            image = image[:, ::-1]
            labels[:, 1] = 1 - labels[:, 1]
        if slot.flipud:
            image = image[::-1]
            labels[:, 2] = 1 - labels[:, 2]
        return _Picture(image, labels, path, box)


def _collate(pictures: list[_Picture], count: int) -> Batch:
    images = np.stack([picture.image for picture in pictures]).transpose(0, 3, 1, 2)
    targets = [np.insert(picture.labels, 0, i, axis=1) for i, picture in enumerate(pictures)]
    return Batch(
        images=np.ascontiguousarray(images),
        targets=np.concatenate(targets),
        paths=tuple(picture.path for picture in pictures),
        letterboxes=tuple(picture.letterbox for picture in pictures),
        count=count,
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

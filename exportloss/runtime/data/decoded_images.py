"""Images of a data set at the size of training, decoded on demand or kept in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from exportloss.errors import ConfigError
from exportloss.runtime.data.image_cache import ImageCache
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.load import load_scaled
from exportloss.runtime.images.resize import ImageArray
from exportloss.system import MOST_OF_MEMORY, available_bytes

__all__ = ["Cache", "DecodedImages"]

Cache = Literal["none", "ram", "disk"]

_GIBIBYTE = 1 << 30


class DecodedImages:
    """Images by index, decoded and scaled to fit a canvas; safe to use from several threads.

    Args:
        paths: Image files.
        sources: (height, width) of each image, pixels.
        size: (height, width) of the canvas, pixels.
        linear: As for `load_scaled`.
        cache: Place where decoded images are kept, as for `Batches`.

    Raises:
        ConfigError: the images do not fit into memory, or there is no cache folder.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        sources: Sequence[tuple[int, int]],
        size: tuple[int, int],
        *,
        linear: bool,
        cache: Cache,
    ) -> None:
        self._paths = paths
        self._sources = sources
        self._size = size
        self._linear = linear
        self._disk = ImageCache(size, linear=linear) if cache == "disk" else None
        self._kept: list[ImageArray | None] | None = None
        if cache == "ram":
            _check_memory(self.place(index).scaled for index in range(len(paths)))
            self._kept = [None] * len(paths)

    @property
    def problem(self) -> str:
        """Reason why decoded images are no longer kept on disk; empty otherwise."""
        return "" if self._disk is None else self._disk.problem

    def place(self, index: int) -> Letterbox:
        """Return the position of an image on its canvas, without augmentation."""
        return Letterbox.fit(self._sources[index], self._size, truncate=True)

    def load(self, index: int) -> Image.Image:
        """Return an image in RGB, scaled to fit the canvas.

        Raises:
            DataError: the image cannot be decoded, or was replaced by one of another size.
        """
        if self._kept is not None and (kept := self._kept[index]) is not None:
            return Image.fromarray(kept)
        if self._disk is not None:
            pixels = self._disk.load(
                self._paths[index],
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
            self._paths[index], self._size, linear=self._linear, source=self._sources[index]
        )


def _check_memory(sizes: Iterable[tuple[int, int]]) -> None:
    needed = 3 * sum(height * width for height, width in sizes)
    free = available_bytes()
    if free is not None and needed > MOST_OF_MEMORY * free:
        raise ConfigError(
            f'cache "ram" needs {needed / _GIBIBYTE:.1f} GiB for the decoded images, '
            f"{free / _GIBIBYTE:.1f} GiB of memory are free; choose another cache"
        )

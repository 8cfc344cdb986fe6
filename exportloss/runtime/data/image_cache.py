"""Decoded images as files in the user's cache folder, for data sets larger than memory.

The key of an entry is what it was made from: the image file (as in `label_cache`), the size and the
interpolation, and the versions of the decoding libraries. An entry with the wrong length or
checksum is made anew. If entries cannot be written, images are decoded every time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from exportloss.errors import ArtifactError, ConfigError
from exportloss.reading import read_bounded
from exportloss.runtime.data.label_cache import hash_image
from exportloss.runtime.images.load import ImageArray
from exportloss.runtime.storage.cache import cache_folder

__all__ = ["ImageCache"]

# Raise it when `load_scaled` makes other pixels of a file.
_VERSION = 1
_FOLDER = "images"
_DIGEST = hashlib.sha256().digest_size
_LEAST_FREE = 1 << 30  # bytes of disk space kept free for the run's own files
_TEMPORARY = ".tmp"
_ABANDONED = 3600  # seconds after which a temporary file counts as abandoned
_GIBIBYTE = 1 << 30


class ImageCache:
    """A folder of decoded images.

    Args:
        size: (height, width) of the canvas that images are scaled for, pixels.
        linear: As for `load_scaled`.

    Attributes:
        problem: Reason why entries are no longer written; empty while they are.

    Raises:
        ConfigError: there is no cache folder.
    """

    def __init__(self, size: tuple[int, int], *, linear: bool) -> None:
        base = cache_folder()
        if base is None:
            raise ConfigError(
                'cache "disk" needs a folder, but EXPORTLOSS_CACHE is empty or there is no home '
                "folder; set EXPORTLOSS_CACHE to a folder, or choose another cache"
            )
        self.problem = ""
        self._folder = base / _FOLDER
        decoders = PIL.__version__, *map(features.version, ("jpg", "libjpeg_turbo", "webp"))
        self._made_for = f"{_VERSION} {decoders} {size} {linear}".encode()
        _remove_abandoned(self._folder)

    def load(
        self, image: Path, scaled: tuple[int, int], make: Callable[[], ImageArray]
    ) -> ImageArray:
        """Return the pixels of an image from its entry, or make them and write the entry.

        Args:
            image: Image file.
            scaled: (height, width) of the decoded and scaled image, pixels.
            make: Function that decodes and scales the image.

        Returns:
            (height, width, 3) uint8.
        """
        if (identity := hash_image(image)) is None:
            return make()
        key = hashlib.sha256(identity + self._made_for).digest()
        name = key.hex()
        path = self._folder / name[:2] / name[2:]
        shape = *scaled, 3
        if (content := _read(path, key, int(np.prod(shape)))) is not None:
            return np.frombuffer(content, np.uint8).reshape(shape)
        pixels = make()
        if not self.problem and pixels.shape == shape:
            self._write(path, key, pixels.tobytes())
        return pixels

    def _write(self, path: Path, key: bytes, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._folder).free - len(content) < _LEAST_FREE:
                self._give_up(f"less than {_LEAST_FREE / _GIBIBYTE:g} GiB of its disk is free")
                return
            # No fsync: an entry that a crash leaves half-written fails its checksum.
            number, temporary = tempfile.mkstemp(suffix=_TEMPORARY, dir=self._folder)
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(_checksum(key, content))
                    file.write(content)
                os.replace(temporary, path)  # noqa: PTH105
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)  # noqa: PTH108
                raise
        except OSError as error:
            self._give_up(str(error))

    def _give_up(self, why: str) -> None:
        self.problem = self.problem or (
            f"decoded images are no longer kept in {self._folder}: {why}; training goes on, and "
            "decodes the others again in each epoch"
        )


def _read(path: Path, key: bytes, size: int) -> memoryview | None:
    """Return the pixels of an entry; None if it is missing or damaged."""
    try:
        content = read_bounded(path, _DIGEST + size, error=ArtifactError, follow=False)
    except (OSError, ArtifactError):
        return None
    pixels = memoryview(content)[_DIGEST:]
    if len(pixels) != size or content[:_DIGEST] != _checksum(key, pixels):
        return None
    return pixels


def _checksum(key: bytes, content: bytes | memoryview) -> bytes:
    """Return a digest that detects damage, and an entry stored under another's key."""
    digest = hashlib.sha256(key)
    digest.update(content)
    return digest.digest()


def _remove_abandoned(folder: Path) -> None:
    """Remove temporary files left by runs that were killed."""
    with contextlib.suppress(OSError):
        for path in folder.glob(f"*{_TEMPORARY}"):
            if time.time() - path.lstat().st_mtime > _ABANDONED:
                path.unlink()

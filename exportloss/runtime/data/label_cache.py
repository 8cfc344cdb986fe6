"""Results of checking a data set's files, kept between runs.

Parsing all labels and decoding all images takes minutes on a large data set. The results are kept
by content, in the user's cache folder; nothing is ever written beside the data.

- A label file's key is the SHA-256 of its bytes: they are few, and must be read to be trusted.
- An image's key is the SHA-256 of its path, size, modification time and first 4 KiB. Hashing
  whole images would read every byte of the data set, which the index is meant to avoid. An image
  that is replaced, truncated or rewritten changes one of these; one whose later bytes are changed
  in place with the clock turned back does not, and is found when it is decoded.

Only good results are kept, so every start reports problems anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from exportloss.errors import ArtifactError, DataError
from exportloss.reading import open_regular, read_bounded
from exportloss.runtime.data.labels import LabelArray
from exportloss.runtime.storage.files import new_file

__all__ = ["Index", "hash_image", "hash_labels"]

# Raise it when labels are parsed, or images refused, by other rules.
_VERSION = 4
_DIGEST = hashlib.sha256().digest_size
_HEAD = 4096  # bytes
_MAX_BYTES = 1 << 30  # some ten million images


class Index:
    """Sizes of images and rows of label files, by content.

    Attributes:
        sizes: (height, width) of each image, pixels, by `hash_image`.
        unended: Keys of the JPEG files without end marker, a subset of the keys of `sizes`.
        rows: (n, 5) labels of each label file, by `hash_labels`.
    """

    def __init__(self) -> None:
        self.sizes: dict[bytes, tuple[int, int]] = {}
        self.unended: set[bytes] = set()
        self.rows: dict[bytes, LabelArray] = {}

    @classmethod
    def load(cls, path: Path | None) -> Index:
        """Read an index; a missing or damaged one, or one of another version, reads as empty."""
        index = cls()
        # The index only saves time, so no failure to read it is worth an error.
        with contextlib.suppress(Exception):
            if path is not None:
                content = read_bounded(path, _MAX_BYTES, error=ArtifactError)
                if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                    index._unpack(np.load(io.BytesIO(content[_DIGEST:]), allow_pickle=False))
        return index

    def save(self, path: Path | None) -> bool:
        """Write an index, atomically; return whether it could be written."""
        if path is None:
            return False
        packed = io.BytesIO()
        rows = list(self.rows.values())
        np.savez(
            packed,
            version=_VERSION,
            image_keys=_as_array(self.sizes),
            sizes=np.array(list(self.sizes.values()), np.int32).reshape(-1, 2),
            unended=_as_array(sorted(self.unended)),
            label_keys=_as_array(self.rows),
            counts=np.array(list(map(len, rows)), np.int64),
            rows=np.concatenate([np.zeros((0, 5), np.float32), *rows]),
        )
        content = packed.getvalue()
        try:
            with new_file(path) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
        except ArtifactError:
            return False
        return True

    def _unpack(self, arrays: Mapping[str, np.ndarray]) -> None:
        if int(arrays["version"]) != _VERSION:
            return
        sizes = map(tuple, arrays["sizes"].tolist())
        rows = np.split(arrays["rows"], np.cumsum(arrays["counts"])[:-1])
        self.sizes = dict(zip(map(bytes, arrays["image_keys"]), sizes, strict=True))
        self.unended = set(map(bytes, arrays["unended"]))
        if len(arrays["counts"]):
            self.rows = dict(zip(map(bytes, arrays["label_keys"]), rows, strict=True))


def hash_labels(content: bytes) -> bytes:
    """Return the key of a label file."""
    return hashlib.sha256(content).digest()


def hash_image(path: Path) -> bytes | None:
    """Return the key of an image; None if it cannot be read."""
    try:
        with open_regular(path, error=DataError) as file:
            status = os.fstat(file.fileno())
            head = file.read(_HEAD)
    except (OSError, ValueError):  # DataError is a ValueError
        return None
    identity = f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0"
    return hashlib.sha256(os.fsencode(identity) + head).digest()


def _as_array(keys: Iterable[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _DIGEST)

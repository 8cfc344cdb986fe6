"""Checksums of training states: docs/format.md describes them byte by byte.

States of format 2 have a checksum that any language can compute: lengths and bytes, nothing that
depends on a serializer. That of format 1 is over Python's JSON and numpy's names of types.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from exportloss.runtime.artifact.tensor_file import StoredTensor

__all__ = ["state_digest", "state_digest_1"]

_LENGTH = 8  # bytes of every count, length and dimension


def state_digest(tensors: Mapping[str, StoredTensor], about: Mapping[str, str]) -> str:
    """Return the SHA-256 of a state, of format 2 or later, in hexadecimal.

    Args:
        tensors: Tensors by name, in any order.
        about: Metadata without the checksum itself, in any order.
    """
    digest = hashlib.sha256(_number(len(about)))
    # Python orders texts by code point, which is the order of their UTF-8 bytes.
    for key, text in sorted(about.items()):
        digest.update(_prefixed(key) + _prefixed(text))
    digest.update(_number(len(tensors)))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_prefixed(name) + _prefixed(tensor.dtype) + _number(len(tensor.shape)))
        digest.update(b"".join(map(_number, tensor.shape)))
        digest.update(tensor.content)
    return digest.hexdigest()


def state_digest_1(tensors: Mapping[str, StoredTensor], about: Mapping[str, str]) -> str:
    """Return the SHA-256 of a state of format 1; arguments as for `state_digest`.

    Raises:
        ValueError: numpy lacks the element type of a tensor.
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        array = tensor.numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(tensor.content)
    return digest.hexdigest()


def _number(value: int) -> bytes:
    return value.to_bytes(_LENGTH, "little")


def _prefixed(text: str) -> bytes:
    content = text.encode()
    return _number(len(content)) + content

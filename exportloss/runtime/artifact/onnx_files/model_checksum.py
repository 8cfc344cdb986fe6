"""ONNX files that contain the sha256 of their other bytes, so that damage to any bit is noticed.

A checksum is not a signature: it detects a damaged file, not a forged one.
"""

from __future__ import annotations

import hashlib

from exportloss.runtime.artifact.onnx_files.protobuf import embedded

__all__ = ["add_model_checksum", "model_is_whole"]

_KEY = "sha256"
_DIGITS = 64
_METADATA = 14  # ModelProto.metadata_props; a StringStringEntryProto has key 1 and value 2


def add_model_checksum(model: bytes) -> bytes:
    """Prepend the sha256 of a serialized ONNX model to it, as an entry of its metadata.

    The fields of a message may be in any order, so the result is the same model.
    """
    return _checksum(hashlib.sha256(model).hexdigest()) + model


def model_is_whole(content: bytes) -> bool:
    """Return whether an ONNX file matches its checksum; True for a file without one.

    Other writers begin a model with its first field rather than its metadata, and without such a
    key. Either of the two identifies a file with a checksum, so no flipped bit can hide that.
    """
    length = len(_checksum("0" * _DIGITS))
    found, model = content[:length], memoryview(content)[length:]
    if found[:1] != _checksum("")[:1] and _KEY.encode() not in found:
        return True
    return found == _checksum(hashlib.sha256(model).hexdigest())


def _checksum(digest: str) -> bytes:
    return embedded(_METADATA, embedded(1, _KEY.encode()) + embedded(2, digest.encode()))

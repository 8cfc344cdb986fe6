"""Files that carry the sha256 of the rest of themselves, so that damage to any bit is noticed.

A seal is no signature: it tells a damaged file, not a forged one.
"""

from __future__ import annotations

import hashlib

from exportloss.runtime.artifact.protobuf import embedded

__all__ = ["model_is_whole", "seal_model", "seal_text", "text_is_whole"]

_KEY = "sha256"
_DIGITS = 64
_METADATA = 14  # ModelProto.metadata_props; a StringStringEntryProto has key 1 and value 2
_UNSEALED = f'"{_KEY}": ""'  # in JSON


def seal_text(text: str) -> str:
    """Fill in the empty value of the first `"sha256": ""` in a JSON text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(_UNSEALED, f'"{_KEY}": "{digest}"', 1)


def text_is_whole(content: bytes, digest: object) -> bool:
    """Whether a text is what `seal_text` wrote.

    Args:
        content: the file.
        digest: what it holds as `sha256`.
    """
    rest = content.replace(str(digest).encode(), b"", 1)
    return hashlib.sha256(rest).hexdigest() == digest


def seal_model(model: bytes) -> bytes:
    """Put the sha256 of a serialized ONNX model before it, as an entry of its metadata.

    The fields of a message may stand in any order, so the result is the same model.
    """
    return _seal(hashlib.sha256(model).hexdigest()) + model


def model_is_whole(content: bytes) -> bool:
    """Whether an ONNX file is what `seal_model` wrote, or a model of someone else, without a seal.

    Writers begin a model with its first field, not with its metadata, and with no such key.
    Either of the two tells a sealed file, so that no flipped bit passes it off as another's.
    """
    length = len(_seal("0" * _DIGITS))
    seal, model = content[:length], memoryview(content)[length:]
    if seal[:1] != _seal("")[:1] and _KEY.encode() not in seal:
        return True
    return seal == _seal(hashlib.sha256(model).hexdigest())


def _seal(digest: str) -> bytes:
    return embedded(_METADATA, embedded(1, _KEY.encode()) + embedded(2, digest.encode()))

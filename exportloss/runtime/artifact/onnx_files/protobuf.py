"""The part of Protocol Buffers' encoding that ONNX files need, for devices without onnx.

Protocol Buffers, "Encoding": a message is a sequence of fields, each a number, a wire type and a
value.

Readers disagree on encodings that no writer produces: a tag with bit 32 set is an unknown field to
a reader that keeps 64 bits and a known field to one that keeps 32. So numbers must be encoded in as
few bytes as possible, tags must fit 32 bits and sizes 31, and groups are refused.
"""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["embedded", "fields", "number"]

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10  # bytes
_LARGEST_TAG = (1 << 32) - 1
_LARGEST_SIZE = (1 << 31) - 1
_LARGEST_NUMBER = (1 << 64) - 1


def number(field: int, value: int) -> bytes:
    """Encode a field whose value is an integer >= 0."""
    return _varint(field << 3 | _VARINT) + _varint(value)


def embedded(field: int, content: bytes) -> bytes:
    """Encode a field whose value is bytes, a string or a message."""
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview | None]]:
    """Yield number and value of each field of a message.

    The value is an int in [0, 2^64) for a varint, bytes for a field with a length, and None for a
    field of fixed size, which no reader here needs.

    Raises:
        ValueError: the content is not a message, is truncated, or is encoded as no writer does.
    """
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position, _LARGEST_TAG)
        field, wire = tag >> 3, tag & 7
        if field == 0:
            raise ValueError(f"field number 0 at byte {position}")
        if wire == _VARINT:
            value, position = _read_varint(message, position, _LARGEST_NUMBER)
            yield field, value
            continue
        if wire == _LENGTH_DELIMITED:
            size, position = _read_varint(message, position, _LARGEST_SIZE)
        elif wire in _FIXED_SIZES:
            size = _FIXED_SIZES[wire]
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if position + size > len(message):
            raise ValueError(f"field {field} ends {position + size - len(message)} bytes too late")
        yield field, message[position : position + size] if wire == _LENGTH_DELIMITED else None
        position += size


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _read_varint(message: memoryview, position: int, largest: int) -> tuple[int, int]:
    """Return a number and the position after it."""
    value = 0
    for index, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value > largest or (byte == 0 and index > 0):
                raise ValueError(f"a number at byte {position} is encoded as no writer does")
            return value, position + index + 1
    raise ValueError(f"no number at byte {position}")

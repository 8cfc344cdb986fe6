"""Safetensors files, read from one buffer and written deterministically.

The format: eight bytes with the length of the header; the header, in JSON, with type, shape and
offsets per tensor and texts under `__metadata__`; the values.

The safetensors package opens a path once to check and once to read, maps the file, so that
truncating it meanwhile ends the process, and writes metadata in random order.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.limits import MAX_HEADER_BYTES, MAX_STATE_BYTES, MAX_TENSORS

__all__ = [
    "StoredTensor",
    "TensorFile",
    "compact_json",
    "parse_tensor_file",
    "read_tensor_file",
    "write_stored_tensors",
    "write_tensors",
]

_LENGTH = 8  # bytes of the header's length; the values begin at a multiple of it
_METADATA = "__metadata__"
_MOST_DIMENSIONS = 32
_SIZES = {  # bytes per value
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL"), 1),
}
_KINDS = {"F": "f", "I": "i", "U": "u"}  # numpy's


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        dtype: Element type, such as `F32`.
        shape: Sizes of the dimensions.
        content: Values, little-endian, in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    content: memoryview

    def numpy(self) -> npt.NDArray[Any]:
        """Return the values as a view of the file's content.

        Raises:
            ValueError: numpy lacks the element type.
        """
        if self.dtype == "BF16":
            raise ValueError("its tensors are bfloat16, which numpy lacks")
        is_bool = self.dtype == "BOOL"
        code = "?" if is_bool else f"<{_KINDS[self.dtype[0]]}{_SIZES[self.dtype]}"
        return np.frombuffer(self.content, code).reshape(self.shape)

    @classmethod
    def of(cls, array: npt.NDArray[Any]) -> StoredTensor:
        """Return an array as it is stored; it is copied only if it is not contiguous."""
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        content = little.reshape(-1).view(np.uint8).data
        return cls(_dtype_name(array.dtype), array.shape, content)


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """Content of a safetensors file.

    Attributes:
        about: Texts of the metadata.
        tensors: Tensors by name, in the file's order.
    """

    about: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]


def read_tensor_file(path: str | Path) -> TensorFile:
    """Read a file into memory, where its tensors may be written to.

    Raises:
        ArtifactError: the file is missing, too large, or not safetensors.
    """
    path = Path(path)
    try:
        content = read_bounded(path, MAX_STATE_BYTES, error=ArtifactError)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; expected a .safetensors file") from error
    return parse_tensor_file(bytearray(content), path)


def parse_tensor_file(content: bytes | bytearray, path: str | Path) -> TensorFile:
    """Parse the content of a file.

    Args:
        content: Content of the file.
        path: Path of the file, for messages.

    Raises:
        ArtifactError: the content is not safetensors.
    """
    try:
        return _parse(memoryview(content))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not a readable training state or weights: {excerpt(error, 300)}; copy the "
            "file again"
        ) from error


def write_tensors(
    file: IO[bytes], tensors: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str]
) -> None:
    """Write tensors and metadata, both sorted by name."""
    write_stored_tensors(file, {n: StoredTensor.of(array) for n, array in tensors.items()}, about)


def write_stored_tensors(
    file: IO[bytes], tensors: Mapping[str, StoredTensor], about: Mapping[str, str]
) -> None:
    """Write tensors as they are stored, and metadata, both sorted by name."""
    header: dict[str, Any] = {_METADATA: dict(sorted(about.items()))}
    end = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        start, end = end, end + tensor.content.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = compact_json(header).encode()
    text += b" " * (-len(text) % _LENGTH)
    file.write(len(text).to_bytes(_LENGTH, "little") + text)
    for name in sorted(tensors):
        file.write(tensors[name].content)


def compact_json(value: Any) -> str:
    """Return a JSON text without spaces and escapes that need not be, as other languages write it.

    ECMAScript's `JSON.stringify` gives the same text, for keys in the same order and numbers
    without exponents.
    """
    return json.dumps(
        _without_fractions(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )


def _without_fractions(value: Any) -> Any:
    """Turn whole floats into integers, which most languages do not distinguish from them."""
    if isinstance(value, Mapping):
        return {key: _without_fractions(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_fractions(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _dtype_name(dtype: np.dtype[Any]) -> str:
    letters = {kind: letter for letter, kind in _KINDS.items()}
    return "BOOL" if dtype == np.bool_ else f"{letters[dtype.kind]}{8 * dtype.itemsize}"


def _parse(content: memoryview) -> TensorFile:
    if len(content) < _LENGTH:
        raise ValueError(
            f"it is truncated: it has {len(content)} bytes, expected at least {_LENGTH}"
        )
    length = int.from_bytes(content[:_LENGTH], "little")
    start = _LENGTH + length
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes, expected at most {MAX_HEADER_BYTES}")
    if start > len(content):
        raise ValueError(
            f"it is truncated: it has {len(content)} bytes, expected more than the {start} of its "
            "header"
        )
    # Decoded first: of bytes, `json` would guess one of five encodings.
    header = json.loads(bytes(content[_LENGTH:start]).decode(), object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise TypeError("its header is not a dictionary")
    about = header.pop(_METADATA, {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise TypeError("its metadata are not texts")
    for text in (*header, *about, *about.values()):
        text.encode()  # refuses half a surrogate pair
    if len(header) > MAX_TENSORS:
        raise ValueError(f"it has {len(header)} tensors, expected at most {MAX_TENSORS}")
    values = content[start:]
    return TensorFile(
        about,
        {name: _stored(values, entry) for name, entry in _covered(header, start, len(values))},
    )


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse duplicate names: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _covered(header: dict[str, Any], start: int, size: int) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries, after checking that their tensors cover the values without gap.

    Args:
        header: Entries by name.
        start: Bytes before the values.
        size: Bytes of the values.
    """
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        first, after = entry["data_offsets"]
        if first != end or after < first:
            raise ValueError(f"{excerpt(repr(name))} does not begin where the one before it ends")
        end = after
    if end > size:
        raise ValueError(
            f"it is truncated: it has {start + size} bytes, expected {start + end} by its header"
        )
    if end < size:
        raise ValueError(f"it has {start + size} bytes, expected {start + end} by its header")
    return list(header.items())


def _stored(values: memoryview, entry: dict[str, Any]) -> StoredTensor:
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = (*shape, start, end)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a shape or offset in it is not an integer >= 0")
    if len(entry) != 3 or len(shape) > _MOST_DIMENSIONS or dtype not in _SIZES:
        raise ValueError(f"a tensor in it is {excerpt(repr(dtype))}, or has too many dimensions")
    if math.prod(shape) * _SIZES[dtype] != end - start:
        raise ValueError(f"a tensor of shape {excerpt(shape)} has {end - start} bytes")
    return StoredTensor(dtype, tuple(shape), values[start:end])

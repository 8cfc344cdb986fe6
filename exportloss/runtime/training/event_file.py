"""Scalars of a run in the file format of TensorBoard, without TensorBoard.

The format is public: each record is a length and data, both with their CRC-32C; the data is an
`Event` protocol buffer message, of which few fields are needed. TensorBoard's own writer opens
sockets and threads, which a device has no use for.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.onnx_files.protobuf import embedded, number
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.storage.locks import open_in_place
from exportloss.runtime.training.results import EpochResult, as_row

__all__ = ["EventFile", "crc32c"]

_WALL_TIME, _STEP, _VERSION, _SUMMARY = 1, 2, 3, 5  # fields of an Event
_VALUE, _TAG, _SIMPLE = 1, 1, 2  # fields of its Summary, and of a Value in it
_POLYNOMIAL = 0x82F63B78  # Castagnoli polynomial, bits reversed


class EventFile:
    """An event file with the columns of `results.csv`, by epoch.

    Args:
        path: File to write; an existing one is replaced.
        results: Epochs to write at once, those before a resume.

    Raises:
        ArtifactError: the file cannot be written.
    """

    def __init__(self, path: Path, results: Sequence[EpochResult] = ()) -> None:
        self._path = path
        version = _record(_event(0, embedded(_VERSION, b"brain.Event:2")))
        with new_file(path) as temporary:
            temporary.write_bytes(version + b"".join(map(_epoch, results)))

    def add(self, result: EpochResult) -> None:
        """Append an epoch.

        Raises:
            ArtifactError: the file cannot be written.
        """
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(open_in_place(self._path, flags), "ab") as file:
                file.write(_epoch(result))
        except OSError as error:
            raise ArtifactError(f"{self._path} cannot be written: {error}") from error


def crc32c(content: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _epoch(result: EpochResult) -> bytes:
    values = b"".join(
        embedded(_VALUE, embedded(_TAG, name.encode()) + _fixed(_SIMPLE, struct.pack("<f", value)))
        for name, value in as_row(result).items()
        if name != "epoch" and value is not None
    )
    return _record(_event(result.epoch, embedded(_SUMMARY, values)))


def _event(step: int, content: bytes) -> bytes:
    wall_time = _fixed(_WALL_TIME, struct.pack("<d", time.time()))
    return wall_time + number(_STEP, step) + content


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _masked(length) + data + _masked(data)


def _masked(content: bytes) -> bytes:
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _fixed(field: int, content: bytes) -> bytes:
    wire_type = {4: 5, 8: 1}[len(content)]
    return bytes([field << 3 | wire_type]) + content


def _table() -> list[int]:
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = entry >> 1 ^ (_POLYNOMIAL if entry & 1 else 0)  # noqa: PLW2901 - eight shifts
        table.append(entry)
    return table


_TABLE = _table()

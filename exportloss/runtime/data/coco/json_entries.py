"""Large JSON files of lists, read entry by entry within limits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from exportloss.errors import DataError, excerpt
from exportloss.reading import read_bounded

__all__ = ["MAX_ENTRY_BYTES", "MAX_JSON_BYTES", "entry_place", "read_entries"]

MAX_JSON_BYTES = 1 << 31  # COCO's training split has 0.45 GB, LVIS's 1.1 GB
MAX_ENTRY_BYTES = 1 << 24  # per entry; as Python objects it takes up to thirty times as much

_WINDOWS = 1 << 12, 1 << 16, 1 << 20, MAX_ENTRY_BYTES  # most entries are short
_SPACE = re.compile(rb"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"


def read_entries(path: Path, lists: frozenset[str]) -> Iterator[tuple[str, int, Any]]:
    """Yield the entries of the lists at the top level of a JSON object.

    Args:
        path: UTF-8 file, with or without byte order mark.
        lists: Keys of the lists to yield; the values of other keys are read and discarded.

    Yields:
        Key, position in the list, and entry; nothing for an empty or missing list.

    Raises:
        DataError: the file is missing, larger than `MAX_JSON_BYTES` or no such JSON; it holds a
            number that is not finite or an entry larger than `MAX_ENTRY_BYTES`; or one of `lists`
            is there twice.
    """
    try:
        content = read_bounded(path, MAX_JSON_BYTES, error=DataError)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; correct the path") from error
    walk = _Walk(path, content)
    walk.expect(b"{", "an object with the lists of a COCO file")
    seen: set[str] = set()
    for _ in walk.items(b"}"):
        key = walk.value("a key")
        if not isinstance(key, str):
            walk.refuse(f"a key is {excerpt(repr(key))}; expected text")
        walk.expect(b":", f"a colon after {excerpt(repr(key))}")
        if key in lists and key in seen:
            walk.refuse(f"`{key}` is there twice; keep one")
        if key in lists:
            seen.add(key)
        if not walk.take(b"["):
            if key in lists:
                walk.refuse(f"`{key}` is no list; expected one, as in COCO's format")
            walk.value(excerpt(key))
            continue
        for position in walk.items(b"]"):
            entry = walk.value(entry_place(excerpt(key), position))
            if key in lists:
                yield key, position, entry
    walk.expect(b"", "nothing more")


def entry_place(key: str, position: int) -> str:
    """Return the name of an entry in messages, `key[position]`."""
    return f"{key}[{position}]"


class _Walk:
    """A position in a file that only moves forward."""

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content
        self._at = len(_BOM) if content.startswith(_BOM) else 0
        self._decoder = json.JSONDecoder(parse_constant=_refuse_constant)

    def refuse(self, what: str) -> NoReturn:
        line = self._content.count(b"\n", 0, self._at) + 1
        raise DataError(f"{self._path}:{line}: not readable as a COCO file: {what}")

    def take(self, mark: bytes) -> bool:
        """Move past a mark if it comes next; return whether it did. b"" is the end of the file."""
        self._skip_space()
        if not mark:
            return self._at == len(self._content)
        if self._content.startswith(mark, self._at):
            self._at += len(mark)
            return True
        return False

    def _skip_space(self) -> None:
        found = _SPACE.match(self._content, self._at)
        assert found is not None
        self._at = found.end()

    def expect(self, mark: bytes, what: str) -> None:
        if not self.take(mark):
            found = self._content[self._at : self._at + 20].decode("ascii", "replace")
            self.refuse(f"got {found!a}, expected {what}")

    def items(self, end: bytes) -> Iterator[int]:
        """Yield the position of each comma-separated value up to `end`; the caller reads it."""
        if self.take(end):
            return
        position = 0
        while True:
            yield position
            if self.take(end):
                return
            self.expect(b",", f"a comma or {end.decode()}")
            position += 1

    def value(self, what: str) -> Any:
        """Read one value; `what` names it in messages."""
        self._skip_space()
        problem: Exception | None = None
        for size in _WINDOWS:
            window = self._content[self._at : self._at + size]
            is_all = self._at + len(window) == len(self._content)
            text, undecoded = _decoded(window)
            try:
                value, end = self._decoder.raw_decode(text)
            except (ValueError, RecursionError) as error:
                problem = error
            else:
                if end < len(text) or (is_all and undecoded is None):  # else a number may continue
                    self._at += end if text.isascii() else len(text[:end].encode())
                    return value
            # A character may continue behind the window.
            if undecoded is not None and (is_all or undecoded.start < len(window) - 3):
                self.refuse(f"{what}: {excerpt(undecoded)}")
            if is_all:
                break
        else:
            if not isinstance(problem, RecursionError | _ConstantError):
                problem = ValueError(f"damaged, or larger than {_WINDOWS[-1]} bytes")
        self.refuse(f"{what}: {excerpt(problem)}")


class _ConstantError(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(f"{name} is not finite")


def _decoded(window: bytes) -> tuple[str, UnicodeDecodeError | None]:
    """Decode as much as is UTF-8; also return the error that ended it, if any."""
    try:
        return window.decode(), None
    except UnicodeDecodeError as error:
        return window[: error.start].decode(), error

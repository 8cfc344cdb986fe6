"""Bounded reading of users' files: limits are checked before memory is allocated."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml

from exportloss.errors import ExportLossError, excerpt

__all__ = [
    "MAX_YAML_BYTES",
    "YamlMapping",
    "open_regular",
    "read_bounded",
    "read_yaml_mapping",
    "sha256_of",
]

MAX_YAML_BYTES = 1 << 20  # the names of 20,000 classes

_MEBIBYTE = 1 << 20
_BLOCK = 1 << 18  # bytes read at once for a digest
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # opening a pipe does not wait for a writer
_MAX_DIGITS = 100  # longer integers cannot be converted to float, or even printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class YamlMapping:
    """The top level of a YAML file.

    Attributes:
        source: Path of the file.
        values: Content, by key.
        lines: Line number of each key, from 1.
    """

    source: Path
    values: Mapping[Any, Any]
    lines: Mapping[Any, int]

    def where(self, key: object) -> str:
        """Return `file:line` of a key, or the file alone if it lacks the key."""
        line = self.lines.get(key)
        return str(self.source) if line is None else f"{self.source}:{line}"


def read_bounded(
    path: Path, limit: int, *, error: type[ExportLossError], follow: bool = True
) -> bytes:
    """Read a whole file of at most `limit` bytes.

    Args:
        path: Regular file; others are refused (a pipe would block, a device never ends).
        limit: Largest accepted size in bytes.
        error: Class of the error to raise.
        follow: Whether the path may be a symbolic link.

    Raises:
        FileNotFoundError: there is no such file.
        ExportLossError: of class `error`; the file is too large or cannot be read.
    """
    try:
        with open_regular(path, error=error, follow=follow) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > limit else file.read(size + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as problem:  # ValueError: a path with a NUL
        if isinstance(problem, ExportLossError):
            raise
        raise error(f"{path}: cannot be read: {problem}") from problem
    if size > limit:
        raise error(
            f"{path}: {size} bytes, expected at most {limit / _MEBIBYTE:g} MiB; check that it is "
            "the right file"
        )
    if len(content) != size:
        raise error(f"{path}: cannot be read: it changed while read; wait until it is complete")
    return content


def open_regular(
    path: Path, *, error: type[ExportLossError], follow: bool = True
) -> io.BufferedReader:
    """Open a regular file for reading; arguments as for `read_bounded`.

    Raises:
        ExportLossError: of class `error`; the path is not a regular file.
        OSError: the file cannot be opened.
        ValueError: the path contains a NUL.
    """
    flags = os.O_RDONLY | _AT_ONCE | (0 if follow else _NO_LINK)
    _refuse_irregular(path, path.stat(follow_symlinks=follow), error)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        # Checked again: the path may have been replaced before it was opened.
        _refuse_irregular(path, os.fstat(file.fileno()), error)
    except ExportLossError:
        file.close()
        raise
    return file


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of an open file from its position to its end, hexadecimal.

    `hashlib.file_digest`, which Python 3.10 does not have.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _refuse_irregular(path: Path, status: os.stat_result, error: type[ExportLossError]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{path}: cannot be read: it is not a regular file; replace it with one")


def read_yaml_mapping(path: Path, *, expected: str, error: type[ExportLossError]) -> YamlMapping:
    """Read a YAML file of `key: value` lines.

    Aliases (`*name`) are refused: a few lines of them can expand to more than fits in memory.

    Args:
        path: UTF-8 file, with or without a byte order mark.
        expected: Description of the expected content, for messages.
        error: Class of the error to raise.

    Raises:
        ExportLossError: of class `error`; the file cannot be read or is not such a mapping. The
            message names the file and, if known, the line.
    """
    try:
        content = read_bounded(path, MAX_YAML_BYTES, error=error)
    except FileNotFoundError as problem:
        raise error(f"{path}: no such file; expected {expected}") from problem
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        node = loader.get_single_node()
        values = None if node is None else loader.construct_document(node)
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        raise error(f"{path}:{line}: not readable as YAML: {problem.reason}") from problem
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = path if mark is None else f"{path}:{mark.line + 1}"
        raise error(f"{where}: not readable as YAML: {excerpt(problem.problem)}") from problem
    except Exception as problem:  # constructors raise nearly anything, parsers RecursionError
        raise error(f"{path}: not readable as YAML: {excerpt(problem)}") from problem
    if not isinstance(values, Mapping):
        raise error(f"{path}: expected {expected}, got {type(values).__name__}")
    lines = {key.value: key.start_mark.line + 1 for key, _ in node.value}
    return YamlMapping(source=path, values=values, lines=lines)


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # yaml has no types
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None, None, "aliases are not supported", self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_short_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(
                None, None, f"a number of {len(node.value)} digits", node.start_mark
            )
        return int(self.construct_yaml_int(node))


# YAML 1.1, which PyYAML reads, requires a decimal point (1.0e-3); people write 1e-3.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$", re.ASCII),
    list("-+0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_short_int)

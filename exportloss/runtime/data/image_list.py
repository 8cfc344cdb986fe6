"""Text files that list images, one path per line."""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path

from exportloss.errors import DataError, excerpt, listed
from exportloss.reading import read_bounded
from exportloss.runtime.data.walking import describe_entry
from exportloss.runtime.images.load import FORMATS

__all__ = ["first_existing", "read_image_list"]

_MAX_BYTES = 1 << 28  # some two million paths
_LISTED = 20


def read_image_list(source: Path, *, suffixes: Set[str] = frozenset(FORMATS)) -> list[Path]:
    """Read a list of images; empty lines are skipped.

    Args:
        source: UTF-8 text file; its lines are absolute, or relative to its folder or else to the
            working folder.
        suffixes: Accepted suffixes in lower case; by default those of images.

    Returns:
        The images in the list's order; each is a file with an accepted suffix.

    Raises:
        DataError: the list cannot be read, or an image is missing or of another format; the
            message names the lines.
    """
    content = read_bounded(source, _MAX_BYTES, error=DataError)
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}:{number}: not readable as a list of image paths: {error.reason}"
        ) from error
    images, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not (entry := line.strip()):
            continue
        image = first_existing(source.parent / entry, Path(entry))
        if image.suffix.lower() not in suffixes:
            problems.append(f"{source}:{number}: {excerpt(entry)!r} is no image of a known format")
        elif not os.path.isfile(image):  # noqa: PTH113
            problems.append(f"{source}:{number}: {excerpt(image, 200)} {describe_entry(image)}")
        images.append(Path(os.path.normpath(image)))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(images)} listed images cannot be used; correct the list "
            "(paths are relative to its folder):\n" + listed(problems, _LISTED, "\n")
        )
    return images


def first_existing(path: Path, *others: Path) -> Path:
    """Return the first path that exists; `path` if none does."""
    return next((each for each in (path, *others) if os.path.exists(each)), path)  # noqa: PTH110

"""The pictures that somebody means by a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from exportloss.errors import DataError
from exportloss.runtime.dataset import IMAGE_SUFFIXES
from exportloss.runtime.files import fit_name
from exportloss.runtime.image_list import read_image_list
from exportloss.runtime.walking import describe_skipped, find_matches, is_irregular

__all__ = ["find_pictures", "unique_stems"]

_LONGEST_SUFFIX = max(IMAGE_SUFFIXES, key=len)


def find_pictures(
    source: str | Path, *, onskip: Callable[[Path], None] | None = None
) -> tuple[Path, ...]:
    """Find pictures by the name of one, a folder, a pattern, or a text file of names.

    A folder is not searched below; a pattern such as `folder/**/*.jpg` is. A text file is read by
    `read_image_list`. Hidden files that are not listed are skipped, as is what is no file: broken
    links, pipes, sockets and devices, none of which is opened.

    Args:
        source: name, folder, pattern or text file.
        onskip: told of each entry that is skipped for being no file, or a folder that cannot be
            read.

    Returns:
        At least one path, sorted by name but for a text file's, which keep their order.

    Raises:
        DataError: nothing is there, or no picture among what is.
    """
    path, skipped = Path(source), list[Path]()
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, these never raise
        try:
            entries = [one for one in path.iterdir() if not one.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"{path}: the folder cannot be read: {error.strerror}; give a folder that can be"
            ) from error
        skipped += sorted(filter(is_irregular, entries))
        pictures = sorted(filter(_is_picture, entries))
        hint = f"; for its subfolders say '{path}/**/*.jpg'"
    elif os.path.isfile(path):  # noqa: PTH113
        pictures = read_image_list(path) if path.suffix.lower() == ".txt" else [path]
        hint = ""
    else:
        matches = list(find_matches(str(source), onskip=skipped.append))
        pictures = sorted(filter(_is_picture, matches))
        hint = ""
        if not matches and not skipped:
            raise DataError(
                f"{source}: no such file or folder; expected a picture, a folder of pictures, a "
                "pattern such as 'folder/*.jpg', or a text file of picture paths"
            )
    if not pictures:
        raise DataError(
            f"{source}: no picture found; expected files that end in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}{hint}"
            f"{'; ' + describe_skipped(skipped) if skipped else ''}"
        )
    if onskip is not None:
        for one in skipped:
            onskip(one)
    if pictures == [path] and not _is_picture(path):
        raise DataError(
            f"{source} is no picture of a known format; expected a file that ends in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}, or a .txt of picture paths"
        )
    return tuple(pictures)


def unique_stems(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Return each file's name without suffix, numbered where another one had it before."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}  # the last one of each name that several have
    stems = []
    for path in paths:
        stem = path.stem
        while stem in taken:
            numbers[path.stem] = numbers.get(path.stem, 1) + 1
            ending = f"-{numbers[path.stem]}"
            stem = fit_name(path.stem, ending + _LONGEST_SUFFIX) + ending
        taken.add(stem)
        stems.append(stem)
    return tuple(stems)


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and os.path.isfile(path)  # noqa: PTH113

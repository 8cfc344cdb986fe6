"""The images and videos that a path, pattern or list names."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Set
from pathlib import Path

from exportloss.errors import DataError, excerpt
from exportloss.runtime.data.dataset import IMAGE_SUFFIXES
from exportloss.runtime.data.image_list import read_image_list
from exportloss.runtime.data.walking import describe_skipped, find_matches, is_irregular
from exportloss.runtime.storage.names import fit_name

__all__ = ["VIDEO_SUFFIXES", "find_images", "is_video", "unique_stems"]

VIDEO_SUFFIXES = frozenset(
    (
        *(".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".ts", ".wmv", ".webm"),
    )
)

_LONGEST_SUFFIX = max(IMAGE_SUFFIXES | VIDEO_SUFFIXES, key=len)
_NUMBERED = re.compile(r"(.+)_[0-9]+")  # name of a file that belongs to a frame of a video
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/", re.ASCII)
_SCREEN = re.compile(r"screen(\s+[0-9]+)*\s*")


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_images(
    source: str | Path,
    *,
    videos: bool = False,
    onskip: Callable[[Path], None] | None = None,
) -> tuple[Path, ...]:
    """Find images by a file, a folder, a pattern, or a text file of paths.

    The subfolders of a folder are not searched; a pattern such as `folder/**/*.jpg` searches them.
    A text file is read by `read_image_list`. Hidden files that are not listed are skipped, and so
    are broken links, pipes, sockets and devices, none of which is opened.

    Args:
        source: Image, folder, pattern or text file.
        videos: True to find videos as well.
        onskip: Function called with each skipped entry that is no file, and with folders that
            cannot be read.

    Returns:
        At least one path, sorted by name; those of a text file keep their order.

    Raises:
        DataError: nothing is there, nothing there is an image, or `source` is an address or the
            screen.
    """
    path, skipped = Path(source), list[Path]()
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, these never raise
        try:
            entries = [one for one in path.iterdir() if not one.name.startswith(".")]
        except OSError as error:
            raise DataError(
                f"{path}: the folder cannot be read: {error.strerror}; allow it, or name another"
            ) from error
        skipped += sorted(filter(is_irregular, entries))
        images = sorted(one for one in entries if _is_one(one, suffixes))
        hint = f"; to search its subfolders, pass '{path}/**/*.jpg'"
    elif os.path.isfile(path):  # noqa: PTH113
        is_list = path.suffix.lower() == ".txt"
        images = read_image_list(path, suffixes=suffixes) if is_list else [path]
        hint = ""
    else:
        _refuse_streams(str(source))
        matches = list(find_matches(str(source), onskip=skipped.append))
        images = sorted(one for one in matches if _is_one(one, suffixes))
        hint = ""
        if not matches and not skipped:
            raise DataError(
                f"{source}: no such file or folder; expected an image, a folder of images, a "
                "pattern such as 'folder/*.jpg', or a text file of image paths"
            )
    if not images:
        raise DataError(
            f"{source}: no image found; expected files that end in "
            f"{' '.join(sorted(suffixes))}{hint}"
            f"{'; ' + describe_skipped(skipped) if skipped else ''}"
        )
    if onskip is not None:
        for one in skipped:
            onskip(one)
    if images == [path] and not _is_one(path, suffixes):
        raise DataError(
            f"{source} is no image of a known format; expected a file that ends in "
            f"{' '.join(sorted(suffixes))}, or a .txt of image paths"
        )
    return tuple(images)


def unique_stems(paths: tuple[Path, ...]) -> tuple[str, ...]:
    """Return each file's name without suffix, numbered if an earlier one has the same name.

    Videos come first: beside `clip.mp4` an image `clip.png` is numbered, and so is `clip_7.png`,
    which has the name of the video's seventh frame.
    """
    taken: set[str] = set()
    clips: set[str] = set()
    numbers: dict[str, int] = {}  # last number given to each name
    stems: dict[int, str] = {}
    for place in sorted(range(len(paths)), key=lambda place: not is_video(paths[place])):
        own = stem = paths[place].stem
        is_clip = is_video(paths[place])
        while stem in taken or (not is_clip and _is_frame_of(stem, clips)):
            numbers[own] = numbers.get(own, 1) + 1
            ending = f"-{numbers[own]}"
            stem = fit_name(own, ending + _LONGEST_SUFFIX) + ending
        taken.add(stem)
        if is_clip:
            clips.add(stem)
        stems[place] = stem
    return tuple(stems[place] for place in range(len(paths)))


def _is_frame_of(stem: str, clips: Set[str]) -> bool:
    match = _NUMBERED.fullmatch(stem) if clips else None
    return match is not None and match[1] in clips


def _is_one(path: Path, suffixes: Set[str]) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in suffixes and not hidden and os.path.isfile(path)  # noqa: PTH113


def _refuse_streams(source: str) -> None:
    """Refuse sources for which YOLOv5 would open the network or the screen."""
    if _ADDRESS.match(source) or _SCREEN.fullmatch(source):
        what = "an address" if _ADDRESS.match(source) else "the screen"
        raise DataError(
            f"{excerpt(source, 200)} is {what}; expected a path, or the number of a camera: no "
            "network is opened here, so save the stream as a video file first"
        )

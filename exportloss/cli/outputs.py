"""Checks that a command does not write among the files that it reads."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import get_args

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.data.dataset import DataConfig, Dataset, Split, label_path

__all__ = [
    "check_outputs",
    "check_run_folder",
    "dataset_files",
    "dataset_folders",
    "dataset_trees",
]

_Identity = tuple[int, int, str]  # device and inode of what exists, and the path below that


def check_run_folder(
    path: Path,
    inputs: Iterable[Path],
    *,
    exist_ok: bool,
    searched: Iterable[Path] = (),
    kept: Iterable[Path] = (),
    folders: Iterable[str] = (),
    trees: Iterable[str] = (),
) -> None:
    """Check that a command may write its results into a run folder; see `check_outputs`.

    Args:
        path: The folder, `--name` in `--project`.
        inputs: Files and folders that the command reads.
        exist_ok: Whether the folder may exist; otherwise a new, empty one is made.
        searched: Folders in which it looks for images, with their subfolders.
        kept: Folders of a data set; see `check_outputs`.
        folders: Names of subfolders that it writes files into.
        trees: Names of subfolders that it writes files into and below.

    Raises:
        ConfigError: Results would be written among the inputs.
    """
    folders = tuple(folders)
    images, labels = path / "images", path / "labels"
    if exist_ok and "labels" in folders and images.is_dir() and labels.exists():
        raise ConfigError(
            f"{labels} lies beside {images}, as the labels of a data set do, and would be written "
            "over; choose another folder"
        )
    check_outputs(
        inputs if exist_ok else (),
        [path, *(path / name for name in folders)],
        trees=[path / name for name in trees],
        searched=searched,
        kept=kept,
    )


def check_outputs(
    inputs: Iterable[Path],
    folders: Iterable[Path],
    *,
    trees: Iterable[Path] = (),
    searched: Iterable[Path] = (),
    kept: Iterable[Path] = (),
) -> None:
    """Check that files written into these folders replace no input, and do not mix with any.

    Args:
        inputs: Files and folders that are read; a link counts with its own place and its target's.
        folders: Folders that files are written into.
        trees: Folders that files are written into, and below.
        searched: Folders that are searched for inputs with their subfolders.
        kept: Folders that hold a data set's images and labels; nothing else belongs in or below
            them.

    Raises:
        ConfigError: Results would be written among inputs; the message names folder and input.
    """
    written = {_identity(folder): folder for folder in folders}
    below = {_identity(tree): tree for tree in trees}
    for holder, one in _holders(inputs).items():
        levels = [_identity(folder) for folder in (holder, *holder.parents)]
        if found := written.get(levels[0]) or _first(below, levels):
            raise ConfigError(
                f"{found} holds {one}, which is read here, and results would be written among it; "
                "choose another folder"
            )
    places = {_identity(place): place for place in searched}
    closed = {_identity(place): place for place in kept}
    for folder in (*written.values(), *below.values()):
        real = Path(os.path.realpath(folder))
        if place := _first(places, map(_identity, (real, *real.parents))):
            raise ConfigError(
                f"{folder} lies in {place}, where images are looked for: results written there "
                "would be taken for some; choose another folder"
            )
        if place := _first(closed, map(_identity, (real, *real.parents))):
            raise ConfigError(
                f"{folder} lies in {place}, which is kept for a data set's images and labels; "
                "choose another folder"
            )


def dataset_files(config: DataConfig) -> Iterator[Path]:
    """Yield the yaml of a data set, and every image and label file of all splits that exist."""
    yield config.source
    for split in get_args(Split):
        yield from getattr(config, split)
        with contextlib.suppress(DataError):  # reported where the split is read
            dataset = Dataset.open(config, split)
            yield from (*dataset.images, *dataset.labels)


def dataset_folders(config: DataConfig) -> Iterator[Path]:
    """Yield the folders that a data set's images are looked for in."""
    for split in get_args(Split):
        yield from filter(os.path.isdir, getattr(config, split))


def dataset_trees(config: DataConfig) -> Iterator[Path]:
    """Yield the folders that are reserved for the images and labels of a data set.

    These are the folders that hold the labels of each split, and the folders called `images` and
    `labels` above these as far as they lie in the data set's root: a whole disk may be called so.
    """
    for split in get_args(Split):
        sources: tuple[Path, ...] = getattr(config, split)
        folders = set(filter(os.path.isdir, sources))
        if len(folders) < len(sources):  # lists of images
            with contextlib.suppress(DataError):  # reported where the split is read
                folders |= {image.parent for image in Dataset.open(config, split).images}
        for folder in folders:
            labels = label_path(folder / "any").parent
            if labels == folder:  # labels beside the images: a folder of anything
                continue
            yield labels
            for one, name in ((folder, "images"), (labels, "labels")):
                above = next((each for each in (one, *one.parents) if each.name == name), None)
                if above is not None and config.root in above.parents:
                    yield above


def _holders(inputs: Iterable[Path]) -> dict[Path, Path]:
    """Return each folder that holds inputs, links resolved, with one of the inputs."""
    holders: dict[str, Path] = {}
    for one in inputs:
        path = os.path.abspath(one)  # noqa: PTH100 - keeps links
        if os.path.isdir(path):  # noqa: PTH112 - unlike Path's, these never raise
            holders.setdefault(path, one)
            continue
        holders.setdefault(os.path.dirname(path), one)  # noqa: PTH120
        if os.path.islink(path):  # noqa: PTH114
            holders.setdefault(os.path.dirname(os.path.realpath(path)), one)  # noqa: PTH120
    return {Path(os.path.realpath(holder)): one for holder, one in holders.items()}


def _first(named: Mapping[_Identity, Path], identities: Iterable[_Identity]) -> Path | None:
    return next(filter(None, map(named.get, identities)), None)


def _identity(folder: Path) -> _Identity:
    """Return what identifies a folder under all its names; it need not exist yet."""
    real = Path(os.path.realpath(folder))
    for above in (real, *real.parents):
        with contextlib.suppress(OSError):
            status = above.stat()
            return status.st_dev, status.st_ino, str(real.relative_to(above))
    return 0, 0, str(real)

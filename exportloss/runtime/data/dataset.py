"""A split of a data set on disk: its images, and their boxes in label files or in a COCO file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.data.coco.split import CocoSplit, is_coco, open_coco
from exportloss.runtime.data.data_yaml import DataConfig, Split, absolute, read_data_yaml
from exportloss.runtime.data.image_list import read_image_list
from exportloss.runtime.data.walking import describe_entry, describe_skipped, files_below
from exportloss.runtime.images.load import FORMATS

__all__ = [
    "IMAGE_SUFFIXES",
    "DataConfig",
    "Dataset",
    "Split",
    "label_path",
    "read_data_yaml",
]

IMAGE_SUFFIXES = frozenset(FORMATS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The images of one split, sorted by path, and the paths of their label files.

    Attributes:
        images: Image files, at least one.
        labels: Label file of each image; one that does not exist means an image without objects.
            For a COCO split, the COCO file for every image.
        names: Class names, in the order of their numbers.
        sources: Folders, lists or COCO file from which the images come; may be empty.
        label_classes: As in `DataConfig`.
        irregular: Entries below the sources that are neither file nor folder, such as broken links
            and pipes; they are skipped.
        coco: Boxes of a COCO file; None if they are in label files.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    names: tuple[str, ...]
    sources: tuple[Path, ...] = ()
    label_classes: int = 0
    irregular: tuple[Path, ...] = ()
    coco: CocoSplit | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes, >= 1."""
        return len(self.names)

    @classmethod
    def open(cls, config: DataConfig, split: Split) -> Dataset:
        """Find the images of a split, in subfolders too.

        Links to folders are followed, but no folder is searched twice; hidden files and folders are
        skipped. The lines of a text file are absolute, or relative to its folder or else to the
        working folder. A COCO file lists its own images.

        Raises:
            DataError: the yaml names no such split, a file or folder is missing, a listed image
                is missing or of another format, there is no image, or a COCO file is bad.
            ConfigError: `split` is none of `Split`.
        """
        if split not in get_args(Split):
            raise ConfigError(f"split is {split!r}; expected one of {get_args(Split)}")
        sources: tuple[Path, ...] = getattr(config, split)
        if not sources:
            raise DataError(
                f"{config.source}: no `{split}:`; add one that names a folder of images or a "
                "text file of image paths"
            )
        if any(map(is_coco, sources)):
            return cls._open_coco(config, split, sources)
        irregular: list[Path] = []
        found = [image for source in sources for image in _images(source, split, config, irregular)]
        images = tuple(sorted(found, key=Path.as_posix))
        if not images:
            raise DataError(
                f"{', '.join(map(str, sources))}: no image found for `{split}:` of "
                f"{config.source}; expected files that end in {' '.join(sorted(IMAGE_SUFFIXES))}"
                f"{'; ' + describe_skipped(irregular) if irregular else ''}"
            )
        return cls(
            images=images,
            labels=tuple(map(label_path, images)),
            names=config.names,
            sources=sources,
            label_classes=config.label_classes,
            irregular=tuple(irregular),
        )

    @classmethod
    def _open_coco(cls, config: DataConfig, split: Split, sources: tuple[Path, ...]) -> Dataset:
        if len(sources) > 1:
            raise DataError(
                f"{config.source}: `{split}` names a COCO file and {len(sources) - 1} more; "
                "expected it alone: merge the files, or make splits of them"
            )
        coco = open_coco(
            sources[0],
            config.image_folders.get(split),
            names=config.label_names or config.names,
            root=config.root,
            key=f"{split}_images",
        )
        images = tuple(sorted(coco.images, key=Path.as_posix))
        return cls(
            images=images,
            labels=sources * len(images),
            names=config.names,
            sources=sources,
            label_classes=config.label_classes,
            coco=coco,
        )


def label_path(image: Path) -> Path:
    """Return the path where YOLOv5 looks for the labels of an image.

    The last folder named `images` becomes `labels`, and the suffix `.txt`; without such a folder
    the label file lies beside the image.
    """
    folders = list(image.parent.parts)
    for index in reversed(range(len(folders))):
        if folders[index] == "images":
            folders[index] = "labels"
            break
    return Path(*folders, image.stem + ".txt")


def _images(source: Path, split: str, config: DataConfig, irregular: list[Path]) -> Iterator[Path]:
    """Yield the images of a source; skipped entries are appended to `irregular`."""
    if os.path.isdir(source):  # noqa: PTH112 - unlike Path's, these never raise
        yield from _images_below(source, split, config, irregular)
    elif os.path.isfile(source):  # noqa: PTH113
        yield from map(absolute, read_image_list(source))
    else:
        what = describe_entry(source) if os.path.lexists(source) else "no such file or folder"
        raise DataError(
            f"{source}: {what} (`{split}:` of {config.source}, relative to "
            f"{config.root}); correct `path:` or `{split}:`, or put the images there"
        )


def _images_below(
    source: Path, split: str, config: DataConfig, irregular: list[Path]
) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: the folder cannot be read (`{split}:` of {config.source}): "
            f"{error.strerror}"
        ) from error

    for path in files_below(source, onerror=refuse, onskip=irregular.append):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            yield path

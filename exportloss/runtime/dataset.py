"""A data set on disk in YOLO layout: `data.yaml`, a folder of pictures, a folder of label files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from exportloss.class_names import LONGEST_NAME, bad_name
from exportloss.errors import ConfigError, DataError, excerpt
from exportloss.reading import YamlMapping, read_yaml_mapping
from exportloss.runtime.image_list import first_existing, read_image_list
from exportloss.runtime.images import FORMATS
from exportloss.runtime.walking import describe_entry, describe_skipped, files_below

__all__ = [
    "IMAGE_SUFFIXES",
    "DataConfig",
    "Dataset",
    "Split",
    "label_path",
    "read_data_yaml",
]

Split = Literal["train", "val", "test"]

IMAGE_SUFFIXES = frozenset(FORMATS)

_MOST_SOURCES = 1_000  # of a split
_SINGLE_CLASS = "item"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a `data.yaml` says.

    Attributes:
        source: the yaml file.
        root: absolute folder that the splits are relative to.
        train: absolute paths of the training split, each a folder of pictures or a text file of
            picture paths; empty where the file names none.
        val: the same for the validation split.
        test: the same for the test split.
        label_classes: number of classes in the label files, where all of them are to count as the
            one of `names`; 0 where they are those of `names`.
        names: the classes, in the order of their numbers; at least one.
    """

    source: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    names: tuple[str, ...]
    test: tuple[Path, ...] = ()
    label_classes: int = 0

    @property
    def num_classes(self) -> int:
        """Number of classes, >= 1."""
        return len(self.names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The pictures of one split, sorted by path, and where the label file of each one belongs.

    Attributes:
        images: picture files, at least one.
        labels: label files, one a picture; one that does not exist means a picture without
            objects.
        names: the classes, in the order of their numbers.
        sources: the folders and lists that the pictures were found in, where there are such.
        label_classes: as in `DataConfig`.
        irregular: Entries below the sources that are neither file nor folder, such as broken links
            and pipes; they are skipped.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    names: tuple[str, ...]
    sources: tuple[Path, ...] = ()
    label_classes: int = 0
    irregular: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes, >= 1."""
        return len(self.names)

    @classmethod
    def open(cls, config: DataConfig, split: Split) -> Dataset:
        """Find the pictures of a split; folders are searched with their subfolders.

        Links to folders are followed, but no folder is searched twice; hidden files and folders are
        passed over. The lines of a text file are relative to its folder, or else to the working
        folder, or absolute.

        Raises:
            DataError: the yaml names no such split, a file or folder is missing, a listed picture
                is missing or of another format, or there is no picture.
            ConfigError: there can be no split of this name.
        """
        if split not in get_args(Split):
            raise ConfigError(f"split is {split!r}; expected one of {get_args(Split)}")
        sources: tuple[Path, ...] = getattr(config, split)
        if not sources:
            raise DataError(
                f"{config.source}: no `{split}:`; add one that names a folder of pictures or a "
                "text file of picture paths"
            )
        irregular: list[Path] = []
        found = [image for source in sources for image in _images(source, split, config, irregular)]
        images = tuple(sorted(found, key=Path.as_posix))
        if not images:
            raise DataError(
                f"{', '.join(map(str, sources))}: no picture found for `{split}:` of "
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


def label_path(image: Path) -> Path:
    """Where YOLOv5 looks for the labels of a picture.

    The last folder called `images` becomes `labels` and the suffix `.txt`; without such a folder
    the label file lies beside the picture.
    """
    folders = list(image.parent.parts)
    for index in reversed(range(len(folders))):
        if folders[index] == "images":
            folders[index] = "labels"
            break
    return Path(*folders, image.stem + ".txt")


def read_data_yaml(path: str | Path, *, single_class: bool = False) -> DataConfig:
    """Read a YOLOv5 `data.yaml`: `names`, and optionally `path`, `train`, `val`, `test`, `nc`.

    `path` is absolute or relative to the yaml's folder, and that folder where it is left out; the
    splits are relative to it. Habits of data sets in the wild are understood where the folder that
    was meant exists: a `path` or a split relative to the working folder, and a split that starts
    with a `../` too many. Other keys are passed over. Whether the pictures exist is for
    `Dataset.open` to say: an export needs the classes only.

    Args:
        path: the file.
        single_class: let all classes count as one, called `item` as in YOLOv5, unless the file has
            one only.

    Raises:
        DataError: the file is missing, too large or no YAML mapping, has no usable `names`, its
            `nc` disagrees with them, or a split is neither a path nor a list of paths.
    """
    read = read_yaml_mapping(
        Path(path),
        expected="the data set's yaml file, with the lines `train:`, `val:` and `names:`",
        error=DataError,
    )
    folder = read.values.get("path") or "."
    if not isinstance(folder, str):
        raise DataError(
            f"{read.where('path')}: `path` is {excerpt(repr(folder))}; expected a folder"
        )
    root = _absolute(first_existing(read.source.parent / folder, Path(folder)))
    names = _names(read)
    merges = single_class and len(names) > 1
    return DataConfig(
        source=read.source,
        root=root,
        train=_split(read, "train", root),
        val=_split(read, "val", root),
        test=_split(read, "test", root),
        names=(_SINGLE_CLASS,) if merges else names,
        label_classes=len(names) if merges else 0,
    )


def _absolute(path: Path) -> Path:
    """Return an absolute path that keeps links."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _split(read: YamlMapping, key: str, root: Path) -> tuple[Path, ...]:
    value = read.values.get(key)
    if isinstance(value, list) and len(value) > _MOST_SOURCES:
        raise DataError(
            f"{read.where(key)}: `{key}` names {len(value)} folders and files; {_MOST_SOURCES} is "
            "the most: name a folder above them, or list the pictures in a text file"
        )
    paths = []
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(entry, str) or not entry:
            raise DataError(
                f"{read.where(key)}: `{key}` holds {excerpt(repr(entry))}; expected a folder, a "
                "text file, or a list of these"
            )
        places = root / entry, root / entry.removeprefix("../"), Path(entry)
        paths.append(_absolute(first_existing(*places)))
    return tuple(dict.fromkeys(paths))  # each once


def _names(read: YamlMapping) -> tuple[str, ...]:
    where, names = read.where("names"), read.values.get("names")
    if not isinstance(names, (list, Mapping)) or not names:
        raise DataError(
            f"{where}: `names` is {excerpt(repr(names))}; expected the classes, such as "
            "`names: [cat, dog]`"
        )
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise DataError(
                f"{where}: the keys of `names` are {excerpt(', '.join(map(repr, names)))}; "
                f"expected 0 to {len(names) - 1}, each once"
            )
        names = [names[index] for index in range(len(names))]
    for index, name in enumerate(names):
        # YAML reads `no` and `off` as false: that would name a class "False".
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise DataError(
                f"{where}: name {index} is {excerpt(repr(name))}; expected a word, in quotation "
                "marks where YAML takes it for something else"
            )
    if "nc" in read.values and (nc := read.values["nc"]) != len(names):
        raise DataError(
            f"{read.where('nc')}: `nc` is {excerpt(repr(nc))} but `names` has {len(names)}; "
            "correct one, or leave `nc` out"
        )
    names = list(map(str, names))
    if (bad := bad_name(names)) is not None:
        raise DataError(
            f"{where}: name {bad} is {excerpt(repr(names[bad]))}; expected text that can be "
            f"printed, of at most {LONGEST_NAME} characters"
        )
    return tuple(names)


def _images(source: Path, split: str, config: DataConfig, irregular: list[Path]) -> Iterator[Path]:
    """Yield the images of a source; `irregular` gathers the entries that are skipped."""
    if os.path.isdir(source):  # noqa: PTH112 - unlike Path's, these never raise
        yield from _images_below(source, split, config, irregular)
    elif os.path.isfile(source):  # noqa: PTH113
        yield from map(_absolute, read_image_list(source))
    else:
        what = describe_entry(source) if os.path.lexists(source) else "no such file or folder"
        raise DataError(
            f"{source}: {what} (`{split}:` of {config.source}, relative to "
            f"{config.root}); correct `path:` or `{split}:`, or put the pictures there"
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

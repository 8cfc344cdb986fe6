"""A data set on disk: `data.yaml`, images, and their boxes in label files or in COCO files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from exportloss.class_names import LONGEST_NAME, bad_name
from exportloss.errors import ConfigError, DataError, excerpt
from exportloss.reading import YamlMapping, read_yaml_mapping
from exportloss.runtime.data.coco.split import CocoSplit, coco_names, is_coco, open_coco
from exportloss.runtime.data.image_list import first_existing, read_image_list
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
        train: absolute paths of the training split, each a folder of images or a text file of
            image paths, or a single COCO file; empty where the file names none.
        val: the same for the validation split.
        test: the same for the test split.
        label_classes: number of classes in the label files, where all of them are to count as the
            one of `names`; 0 where they are those of `names`.
        names: the classes, in the order of their numbers; at least one.
        label_names: the classes of the labels, where all of them are to count as one.
        image_folders: absolute folders of the images, by split, of COCO files for which the yaml
            names one.
    """

    source: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    names: tuple[str, ...]
    test: tuple[Path, ...] = ()
    label_classes: int = 0
    label_names: tuple[str, ...] = ()
    image_folders: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes, >= 1."""
        return len(self.names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The images of one split, sorted by path, and where the label file of each one belongs.

    Attributes:
        images: image files, at least one.
        labels: label files, one an image; one that does not exist means an image without
            objects. Of a COCO file, that file for all images.
        names: the classes, in the order of their numbers.
        sources: the folders and lists that the images were found in, where there are such.
        label_classes: as in `DataConfig`.
        irregular: Entries below the sources that are neither file nor folder, such as broken links
            and pipes; they are skipped.
        coco: the boxes, where they are in a COCO file; None where they are in label files.
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
        """Find the images of a split; folders are searched with their subfolders.

        Links to folders are followed, but no folder is searched twice; hidden files and folders are
        passed over. The lines of a text file are relative to its folder, or else to the working
        folder, or absolute. The images of a COCO file are those that it lists.

        Raises:
            DataError: the yaml names no such split, a file or folder is missing, a listed image
                is missing or of another format, there is no image, or a COCO file is bad.
            ConfigError: there can be no split of this name.
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
    """Where YOLOv5 looks for the labels of an image.

    The last folder called `images` becomes `labels` and the suffix `.txt`; without such a folder
    the label file lies beside the image.
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
    with a `../` too many. A split may be a COCO file, `train: instances_train.json`, with the
    folder of its images as `train_images`; the classes of a file without `names` are then those of
    the first such split. Other keys are passed over. Whether the images exist is for
    `Dataset.open` to say: an export needs the classes only.

    Args:
        path: the file.
        single_class: let all classes count as one, called `item` as in YOLOv5, unless the file has
            one only.

    Raises:
        DataError: the file is missing, too large or no YAML mapping, has no usable `names`, its
            `nc` disagrees with them, or a split is neither a path nor a list of paths.
    """
    if is_coco(Path(path)):
        raise DataError(
            f"{path}: expected a yaml file; write one that names this COCO file, such as "
            f"`train: {Path(path).name}`"
        )
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
    if is_coco(Path(folder)):
        raise DataError(
            f"{read.where('path')}: `path` is {excerpt(repr(folder))}; expected a folder: name "
            "COCO files with `train:`, `val:` and `test:`"
        )
    root = _absolute(first_existing(read.source.parent / folder, Path(folder)))
    splits = {split: _split(read, split, root) for split in get_args(Split)}
    names = _names(read, splits)
    merges = single_class and len(names) > 1
    return DataConfig(
        source=read.source,
        root=root,
        names=(_SINGLE_CLASS,) if merges else names,
        label_classes=len(names) if merges else 0,
        label_names=names if merges else (),
        image_folders=_image_folders(read, splits, root),
        **splits,
    )


def _absolute(path: Path) -> Path:
    """Return an absolute path that keeps links."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _split(read: YamlMapping, key: str, root: Path) -> tuple[Path, ...]:
    value = read.values.get(key)
    if isinstance(value, list) and len(value) > _MOST_SOURCES:
        raise DataError(
            f"{read.where(key)}: `{key}` names {len(value)} folders and files; {_MOST_SOURCES} is "
            "the most: name a folder above them, or list the images in a text file"
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


def _image_folders(
    read: YamlMapping, splits: Mapping[str, tuple[Path, ...]], root: Path
) -> dict[str, Path]:
    """Return the folders of COCO files' images; the key is of no use to other splits."""
    folders = {}
    for split, sources in splits.items():
        value = read.values.get(key := f"{split}_images")
        if value is None or not any(map(is_coco, sources)):
            continue
        if not isinstance(value, str) or not value:
            raise DataError(
                f"{read.where(key)}: `{key}` is {excerpt(repr(value))}; expected the folder of the "
                "images"
            )
        folders[split] = first_existing(root / value, root / value.removeprefix("../"))
    return folders


def _names(read: YamlMapping, splits: Mapping[str, tuple[Path, ...]]) -> tuple[str, ...]:
    where, names = read.where("names"), read.values.get("names")
    if names is None:
        files = [source for sources in splits.values() for source in sources if is_coco(source)]
        names = list(coco_names(files[0])) if files else None
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

"""A data set on disk in YOLO layout: `data.yaml`, a folder of pictures, a folder of label files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from exportloss.errors import ConfigError, DataError

__all__ = ["IMAGE_SUFFIXES", "DataConfig", "Dataset", "Split", "label_path", "read_data_yaml"]

Split = Literal["train", "val"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

_LISTED = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a `data.yaml` says.

    Attributes:
        source: the yaml file.
        root: absolute folder that the splits are relative to.
        train: absolute paths of the training split, each a folder of pictures or a text file of
            picture paths; empty where the file names none.
        val: the same for the validation split.
        names: the classes, in the order of their numbers; at least one.
    """

    source: Path
    root: Path
    train: tuple[Path, ...]
    val: tuple[Path, ...]
    names: tuple[str, ...]

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
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        """Number of classes, >= 1."""
        return len(self.names)

    @classmethod
    def open(cls, config: DataConfig, split: Split) -> Dataset:
        """Find the pictures of a split; folders are searched with their subfolders.

        Hidden files and folders are passed over. The lines of a text file are relative to its
        folder, or absolute.

        Raises:
            DataError: the yaml names no such split, a file or folder is missing, a listed picture
                is missing or of another format, or there is no picture.
            ConfigError: `split` is neither `"train"` nor `"val"`.
        """
        if split not in get_args(Split):
            raise ConfigError(f"split is {split!r}; expected one of {get_args(Split)}")
        sources: tuple[Path, ...] = getattr(config, split)
        if not sources:
            raise DataError(
                f"{config.source}: no `{split}:`; add one that names a folder of pictures or a "
                "text file of picture paths"
            )
        found = [image for source in sources for image in _images(source, split, config)]
        images = tuple(sorted(found, key=Path.as_posix))
        if not images:
            raise DataError(
                f"{', '.join(map(str, sources))}: no picture found for `{split}:` of "
                f"{config.source}; expected files that end in {' '.join(sorted(IMAGE_SUFFIXES))}"
            )
        return cls(images=images, labels=tuple(map(label_path, images)), names=config.names)


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


def read_data_yaml(path: str | Path) -> DataConfig:
    """Read a YOLOv5 `data.yaml`: `names`, and optionally `path`, `train`, `val`, `nc`.

    `path` is absolute or relative to the yaml's folder, and that folder where it is left out;
    `train` and `val` are relative to it. Other keys are passed over. Whether the pictures exist
    is for `Dataset.open` to say: an export needs the classes only.

    Raises:
        DataError: the file is missing or no YAML mapping, has no usable `names`, its `nc`
            disagrees with them, or a split is neither a path nor a list of paths.
    """
    source = Path(path)
    try:
        values = yaml.safe_load(source.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{source}: no such file; expected the data set's yaml file") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{source}: not readable as YAML: {error}") from error
    if not isinstance(values, Mapping):
        raise DataError(
            f"{source}: expected the lines `train:`, `val:` and `names:`, "
            f"got {type(values).__name__}"
        )
    folder = values.get("path") or "."
    if not isinstance(folder, str):
        raise DataError(f"{source}: `path` is {folder!r}; expected a folder")
    root = Path(os.path.abspath(source.parent / folder))  # noqa: PTH100 - keeps symlinks
    return DataConfig(
        source=source,
        root=root,
        train=_split(values.get("train"), "train", source, root),
        val=_split(values.get("val"), "val", source, root),
        names=_names(values, source),
    )


def _split(value: object, key: str, source: Path, root: Path) -> tuple[Path, ...]:
    paths = []
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(entry, str) or not entry:
            raise DataError(
                f"{source}: `{key}` holds {entry!r}; expected a folder, a text file, or a list "
                "of these"
            )
        paths.append(Path(os.path.abspath(root / entry)))  # noqa: PTH100
    return tuple(paths)


def _names(values: Mapping[Any, Any], source: Path) -> tuple[str, ...]:
    names = values.get("names")
    if not isinstance(names, (list, Mapping)) or not names:
        raise DataError(
            f"{source}: `names` is {names!r}; expected the classes, such as `names: [cat, dog]`"
        )
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise DataError(
                f"{source}: the keys of `names` are {', '.join(map(repr, names))}; expected "
                f"0 to {len(names) - 1}, each once"
            )
        names = [names[index] for index in range(len(names))]
    for index, name in enumerate(names):
        # YAML reads `no` and `off` as false: that would name a class "False".
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise DataError(
                f"{source}: name {index} is {name!r}; expected a word, in quotation marks where "
                "YAML takes it for something else"
            )
    if "nc" in values and values["nc"] != len(names):
        raise DataError(
            f"{source}: `nc` is {values['nc']!r} but `names` has {len(names)}; correct one, or "
            "leave `nc` out"
        )
    return tuple(map(str, names))


def _images(source: Path, split: str, config: DataConfig) -> Iterator[Path]:
    if source.is_dir():
        for path in source.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(source).parts)
            if path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file():
                yield path
    elif source.is_file():
        yield from _listed_images(source)
    else:
        raise DataError(
            f"{source}: no such file or folder (`{split}:` of {config.source}, relative to "
            f"{config.root}); correct `path:` or `{split}:`, or put the pictures there"
        )


def _listed_images(source: Path) -> list[Path]:
    try:
        lines = source.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: not readable as a list of picture paths: {error}") from error
    images, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not (entry := line.strip()):
            continue
        image = Path(os.path.abspath(source.parent / entry))  # noqa: PTH100
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            problems.append(f"{source}:{number}: {entry!r} is no picture of a known format")
        elif not image.is_file():
            problems.append(f"{source}:{number}: {image} does not exist")
        images.append(image)
    if problems:
        more = f"\nand {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise DataError(
            f"{len(problems)} of {len(images)} listed pictures cannot be used; correct the list "
            f"(paths are relative to its folder):\n{chr(10).join(problems[:_LISTED])}{more}"
        )
    return images

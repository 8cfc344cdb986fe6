"""`data.yaml`: the splits of a data set, and its classes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from exportloss.class_names import LONGEST_NAME, bad_name
from exportloss.errors import DataError, excerpt
from exportloss.reading import YamlMapping, read_yaml_mapping
from exportloss.runtime.data.coco.split import coco_names, is_coco
from exportloss.runtime.data.image_list import first_existing

__all__ = ["DataConfig", "Split", "absolute", "read_data_yaml"]

Split = Literal["train", "val", "test"]

_MOST_SOURCES = 1_000  # per split
_SINGLE_CLASS = "item"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Contents of a `data.yaml`.

    Attributes:
        source: Path of the yaml file.
        root: Absolute folder that the splits are relative to.
        train: Absolute paths of the training split, each a folder of images or a text file of
            image paths, or a single COCO file; empty if the file names none.
        val: Paths of the validation split, as for `train`.
        test: Paths of the test split, as for `train`.
        label_classes: Number of classes in the label files if all count as the one of `names`; 0 if
            they are those of `names`.
        names: Class names, in the order of their numbers; at least one.
        label_names: Class names of the labels if all count as one; empty otherwise.
        image_folders: Image folders of COCO files, by split, where the yaml names them.
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


def read_data_yaml(path: str | Path, *, single_class: bool = False) -> DataConfig:
    """Read a YOLOv5 `data.yaml`: `names`, and optionally `path`, `train`, `val`, `test`, `nc`.

    `path` is absolute or relative to the yaml's folder, which is also its default; the splits are
    relative to `path`. Two habits of existing data sets are understood if the folder meant exists:
    a `path` or split relative to the working folder, and a split with one `../` too many. A split
    may be a COCO file, `train: instances_train.json`, with its image folder as `train_images`; the
    classes of a yaml without `names` are then those of the first such split. Other keys are
    skipped. `Dataset.open` checks that the images exist: an export needs only the classes.

    Args:
        path: Path of the yaml file.
        single_class: True to count all classes as one, named `item` as in YOLOv5, unless the file
            has only one.

    Raises:
        DataError: the file is missing, too large or no YAML mapping; `names` is unusable, or `nc`
            disagrees with it; or a split is neither a path nor a list of paths.
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
    root = absolute(first_existing(read.source.parent / folder, Path(folder)))
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


def absolute(path: Path) -> Path:
    """Return an absolute path that keeps links."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _split(read: YamlMapping, key: str, root: Path) -> tuple[Path, ...]:
    value = read.values.get(key)
    if isinstance(value, list) and len(value) > _MOST_SOURCES:
        raise DataError(
            f"{read.where(key)}: `{key}` names {len(value)} folders and files; expected at "
            f"most {_MOST_SOURCES}: name a folder above them, or list the images in a text file"
        )
    paths = []
    for entry in value if isinstance(value, list) else [] if value is None else [value]:
        if not isinstance(entry, str) or not entry:
            raise DataError(
                f"{read.where(key)}: `{key}` holds {excerpt(repr(entry))}; expected a folder, a "
                "text file, or a list of these"
            )
        places = root / entry, root / entry.removeprefix("../"), Path(entry)
        paths.append(absolute(first_existing(*places)))
    return tuple(dict.fromkeys(paths))  # each once


def _image_folders(
    read: YamlMapping, splits: Mapping[str, tuple[Path, ...]], root: Path
) -> dict[str, Path]:
    """Return the image folders of COCO files; the key is ignored for other splits."""
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
        # YAML reads `no` and `off` as booleans, which would name a class "False".
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise DataError(
                f"{where}: name {index} is {excerpt(repr(name))}; expected a word, in quotation "
                "marks if YAML takes it for something else"
            )
    if "nc" in read.values and (nc := read.values["nc"]) != len(names):
        raise DataError(
            f"{read.where('nc')}: `nc` is {excerpt(repr(nc))} but `names` has {len(names)}; "
            "correct one, or remove `nc`"
        )
    names = list(map(str, names))
    if (bad := bad_name(names)) is not None:
        raise DataError(
            f"{where}: name {bad} is {excerpt(repr(names[bad]))}; expected printable text "
            f"of at most {LONGEST_NAME} characters"
        )
    return tuple(names)

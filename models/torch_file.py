"""Files of `torch.save`, read without running any code in them.

A pickle is a program: it names classes and functions, and calls them. YOLOv5's checkpoints hold
whole models, so they name classes that are not installed here. Each is replaced by a stand-in,
which keeps attributes and has no code. Names that no checkpoint of YOLOv5 needs are refused before
anything is loaded. Then torch's own restricted unpickler (`torch.load(weights_only=True)`) loads
the file; it knows only tensors and the stand-ins.

The file is read once, into memory. The scanned bytes are those that torch's own archive reader
finds, and torch loads the same ones.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from exportloss.errors import ArtifactError, excerpt
from exportloss.models.pickle_scan import PickleScan, scan_pickle
from exportloss.models.torch_archive import read_pickle
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.limits import MAX_STATE_BYTES

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["StandIn", "load_torch_file"]

# Classes and functions to replace by stand-ins: YOLOv5's own, layers, and types in its settings.
_STAND_IN = re.compile(
    r"(models|utils|torch\.nn\.modules)\.[\w.]+"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|pathlib\.(_local\.)?\w+Path"
)
# Tensors and containers, which torch loads itself. Neither `torch.Tensor` nor an untyped storage is
# among them: called with a size, they return uninitialised memory.
_TORCH = re.compile(
    r"torch\.(Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch\.(Size|device|bool|bfloat16|float(16|32|64)|uint8|int(8|16|32|64))"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
    r"|collections\.OrderedDict|builtins\.set|_codecs\.encode"
)
_OTHER_KINDS = (
    (re.compile(r"ultralytics\."), "it is a checkpoint of YOLOv8 or later, or of YOLOv5u"),
    (re.compile(r"models\.yolo\.Segment"), "it is a segmentation model's checkpoint"),
    (re.compile(r"models\.yolo\.Classif"), "it is a classifier's checkpoint"),
)
_NAME = re.compile(r"\w+(\.\w+)+")
_ZIP = b"PK\3\4"  # first bytes of a zip file
_OLD = (
    "; it is in torch's format from before 1.6, in which only state dicts are read, not whole "
    "models; load it and save it again where YOLOv5 is installed"
)
# Magic number, version, machine, the object itself, and the keys of the storages after it.
_PICKLES_OF_THE_OLD_FORMAT = 5
_LIST_OF_TEXTS = frozenset(
    "PROTO EMPTY_LIST MARK BINUNICODE BINPUT LONG_BINPUT APPEND APPENDS STOP".split()
)


class StandIn:
    """An object of a class that is not loaded; there is one subclass per class, with its name.

    Attributes:
        attributes: The object's `__dict__`, as the file has it.
    """

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __new__(cls, *_: object) -> Self:
        """Ignore the arguments, which are those of the class or function."""
        self = super().__new__(cls)
        self.attributes = {}
        return self

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


def load_torch_file(path: Path, packages: Sequence[str] = ()) -> Any:
    """Read a file of `torch.save`, in the zip format or the older one, onto the CPU.

    Whole models are read in the zip format only.

    Args:
        path: File of at most 8 GiB.
        packages: Packages whose objects are replaced by stand-ins too, beside YOLOv5's.

    Returns:
        Containers, numbers, tensors, and a `StandIn` for any other object.

    Raises:
        ArtifactError: the file is unreadable, or names an object that no detector's checkpoint
            needs. The message names the object; nothing in the file has been executed.
    """
    try:
        content = read_bounded(path, MAX_STATE_BYTES, error=ArtifactError)
        named = _named_objects(path, content, packages)
        stand_ins: list[Any] = [(_stand_in(n), n) for n in named if _is_replaced(n, packages)]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            loaded = torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True, mmap=False
            )
        _drop_attributes(loaded)
        return loaded
    except ArtifactError:
        raise
    except Exception as error:  # a damaged file can make the readers raise anything
        # Drop torch's advice to read the file unsafely, which precedes the reason.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        old = isinstance(error, pickle.UnpicklingError) and not content.startswith(_ZIP)
        raise ArtifactError(
            f"{path} is not readable as weights: {type(error).__name__}: {excerpt(reason, 200)}"
            f"{_OLD * old}"
        ) from error


def _drop_attributes(root: object) -> None:
    """Remove attributes of dictionaries that come from the file: one may be called `items`."""
    seen, waiting = set(), [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, OrderedDict):
            vars(value).clear()
        if isinstance(value, StandIn):
            waiting.append(value.attributes)
        elif isinstance(value, dict):
            waiting.extend(value)
            waiting.extend(dict.values(value))
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)


def _stand_in(name: str) -> type[StandIn]:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (StandIn,), {"__slots__": (), "__module__": module})


def _named_objects(path: Path, content: bytes, packages: Sequence[str]) -> frozenset[str]:
    """Return the full names of all classes and functions in the file's pickles.

    Raises:
        ArtifactError: one of them is neither loaded nor replaced.
        ValueError: a storage's declared size is wrong, or the file is not one of `torch.save`.
    """

    seen: list[str] = []
    kind = "" if packages else "YOLOv5 "

    def check(name: str) -> None:
        seen.append(name)
        if not (_is_replaced(name, packages) or _TORCH.fullmatch(name)):
            raise ArtifactError(
                f"{path} is refused: {_other_kind(seen)}it names {excerpt(repr(name), 200)}, which "
                f"no {kind}detector's checkpoint needs and which could run code; nothing in the "
                "file was executed"
            )

    if not content.startswith(_ZIP):
        file = io.BytesIO(content)
        scans = [scan_pickle(file, check) for _ in range(_PICKLES_OF_THE_OLD_FORMAT)]
        *_, found, keys = scans
        _check_old_storages(found, keys)
        return frozenset[str]().union(*(scan.names for scan in scans))
    pickled, sizes = read_pickle(content)
    found = scan_pickle(io.BytesIO(pickled), check)
    for key, size in found.storages.items():
        if sizes.get(key) != size:
            raise ValueError(f"storage {key} has {sizes.get(key)} bytes, expected {size}")
    return found.names


def _is_replaced(name: str, packages: Sequence[str]) -> bool:
    if _STAND_IN.fullmatch(name):
        return True
    return _NAME.fullmatch(name) is not None and name.partition(".")[0] in packages


def _other_kind(names: Sequence[str]) -> str:
    """Describe the kind of checkpoint that has such names, if known and not a detector's."""
    for known, kind in _OTHER_KINDS:
        if any(known.match(name) for name in names):
            return f"{kind}; "
    return ""


def _check_old_storages(found: PickleScan, keys: PickleScan) -> None:
    """Check that all storages in use are in the old format's list of storages that follow.

    Torch would leave the memory of others uninitialised.
    """
    if not keys.operations <= _LIST_OF_TEXTS or found.storages.keys() - set(keys.texts):
        raise ValueError("it does not hold all storages that it refers to")

"""Files of `torch.save`, read without running anything that is in them.

A pickle is a program: it names classes and functions, and calls them. YOLOv5's checkpoints hold
whole models, so they name classes that are not installed here. Each gets a stand-in that keeps
attributes and has no code. Names that no checkpoint of YOLOv5 needs are refused before anything
is loaded, and torch's own restricted unpickler (`torch.load(weights_only=True)`) does the loading,
which knows tensors and the stand-ins only.
"""

from __future__ import annotations

import itertools
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

import torch

from exportloss.errors import ArtifactError, excerpt
from exportloss.models.pickle_size import PickleSize

__all__ = ["StandIn", "load_torch_file"]

# Classes and functions that get a stand-in: YOLOv5's own, layers, and what its settings hold.
_STAND_IN = re.compile(
    r"(models|utils|torch\.nn\.modules)\.[\w.]+"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|pathlib\.(_local\.)?\w+Path"
)
# Tensors and containers, which torch makes itself.
_TORCH = re.compile(
    r"torch\.(\w+Storage|storage\.\w+Storage|Tensor|Size|device|bool|b?u?(float|int)\d+)"
    r"|torch\._utils\._rebuild_(tensor|tensor_v2|parameter)|torch\.nn\.parameter\.Parameter"
    r"|collections\.OrderedDict|builtins\.set|_codecs\.encode"
)
_ZIP = b"PK\3\4"  # how a zip file begins
_OLD = (
    "; it is in torch's format from before 1.6, of which state dicts are read, no whole models: "
    "load it and save it again where YOLOv5 is installed"
)
_PICKLES_OF_THE_OLD_FORMAT = 4  # magic number, version, machine, and the object itself


class StandIn:
    """An object of a class that is not loaded; a subclass for each class keeps its name.

    Attributes:
        attributes: what the file says the object's `__dict__` is.
    """

    __slots__ = ("attributes",)
    attributes: dict[str, Any]

    def __new__(cls, *_: object) -> Self:
        """Take whatever arguments the class or function takes, and do nothing with them."""
        self = super().__new__(cls)
        self.attributes = {}
        return self

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.attributes = state


def load_torch_file(path: Path) -> Any:
    """Read what `torch.save` wrote, in its zip format or the older one, onto the CPU.

    A whole model is read in the zip format only.

    Returns:
        Containers, numbers, tensors, and a `StandIn` for any other object.

    Raises:
        ArtifactError: the file is unreadable, or names an object that a YOLOv5 checkpoint has no
            use for; the message names it, and nothing of the file has been executed.
    """
    try:
        named = set(_named_objects(path))
        stand_ins: list[Any] = [(_stand_in(n), n) for n in named if _STAND_IN.fullmatch(n)]
        with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except ArtifactError:
        raise
    except Exception as error:  # a damaged file can make the readers raise anything
        # Torch precedes its reason with advice to read the file unsafely.
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        old = isinstance(error, pickle.UnpicklingError) and not _is_zip(path)
        raise ArtifactError(
            f"{path} is not readable as weights: {type(error).__name__}: {excerpt(reason, 200)}"
            f"{_OLD * old}"
        ) from error


def _stand_in(name: str) -> type[StandIn]:
    module, _, qualified = name.rpartition(".")
    return type(qualified, (StandIn,), {"__slots__": (), "__module__": module})


def _named_objects(path: Path) -> Iterator[str]:
    """Yield the full name of every class and function that the file's pickles name.

    Raises:
        ArtifactError: at the first that is neither loaded nor replaced.
    """
    for name in itertools.chain.from_iterable(map(_named_in_pickle, _pickles(path))):
        if not (_STAND_IN.fullmatch(name) or _TORCH.fullmatch(name)):
            raise ArtifactError(
                f"{path} is refused: it names {excerpt(repr(name), 200)}, which no YOLOv5 "
                "checkpoint needs and which could run code; nothing in the file was executed"
            )
        yield name


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """Yield the file's pickles, each where it begins."""
    if not _is_zip(path):
        with path.open("rb") as file:
            yield from itertools.repeat(file, _PICKLES_OF_THE_OLD_FORMAT)
        return
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:  # small files could fill the memory
                raise ValueError(f"{entry.filename} is compressed, which torch.save never does")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} does not match its checksum")
        for name in archive.namelist():
            if name.endswith(".pkl"):
                with archive.open(name) as member:
                    yield member


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _named_in_pickle(file: IO[bytes]) -> Iterator[str]:
    strings: deque[str] = deque(maxlen=2)
    size = PickleSize()
    for opcode, argument, _ in pickletools.genops(file):
        size.feed(opcode, argument)
        if opcode.name in ("GLOBAL", "INST"):
            yield _modern(str(argument).replace(" ", ".", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield _modern(".".join(strings))
        elif isinstance(argument, str):
            strings.append(argument)


def _modern(name: str) -> str:
    """Name what torch writes under its name in Python 2 by that of Python 3."""
    return name.replace("__builtin__.", "builtins.", 1)

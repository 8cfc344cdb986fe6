"""The state of a training, which `save` writes and `resume` reads, for any kind of artifact."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.runtime.artifact.file_format import FileFormat
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state_digest import state_digest, state_digest_1
from exportloss.runtime.artifact.tensor_file import (
    StoredTensor,
    TensorFile,
    compact_json,
    read_tensor_file,
    write_stored_tensors,
)
from exportloss.runtime.storage.files import new_file

__all__ = ["TrainState", "check_description", "load_state", "save_state", "take_state"]

Array = npt.NDArray[np.float32]

_FORMAT = FileFormat(
    family="exportloss-state",
    newest=2,
    expected="expected a training state, 'exportloss-state/1' or 'exportloss-state/2'",
)
_OPTIMIZER = "optimizer/"  # optimizer/<what>/<parameter>
_EMA = "ema/"  # ema/<parameter or statistic>
_BALANCE = "balance"
_DIGITS = 10
_COUNT = re.compile(rf"0|[1-9]\d{{0,{_DIGITS - 1}}}", re.ASCII)
_DESCRIPTION = ("names", "anchors", "strides")  # from the manifest, in the metadata as JSON


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class TrainState:
    """State of a training: everything that a step changes.

    Attributes:
        model: Parameters and statistics by the model's own names, float32.
        optimizer: Optimizer state: per state tensor (such as `momentum`), one array per trainable
            parameter, of its shape.
        balance: (nl,) objectness weights.
        updates: Number of optimizer steps done.
        skipped: Number of optimizer steps skipped because their results would not have been finite.
        ema: Moving average of the trained parameters and statistics, by the same names; empty if
            none is kept. Frozen tensors have none.
    """

    model: Mapping[str, Array]
    optimizer: Mapping[str, Mapping[str, Array]]
    balance: Array
    updates: int
    skipped: int = 0
    ema: Mapping[str, Array] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return (
            f"TrainState({len(self.model)} tensors, optimizer {', '.join(self.optimizer)}, "
            f"{self.updates} updates, {self.skipped} skipped, "
            f"{'with' if self.ema else 'without'} a moving average)"
        )


def save_state(path: str | Path, state: TrainState, *, manifest: Manifest | None = None) -> None:
    """Write a state as safetensors, under the model's tensor names, with a checksum.

    Args:
        path: File to write.
        state: State of the training.
        manifest: Manifest of the artifacts; None to write no description of the weights. With it,
            the metadata holds `model`, the detector's name, and as JSON `names`, a list in class
            order, `anchors`, (nl, na, 2) in input pixels, and `strides`, a list.

    Raises:
        ArtifactError: the file cannot be written; an existing file is then unchanged.
    """
    arrays = dict(state.model)
    for kept, entries in state.optimizer.items():
        arrays |= {f"{_OPTIMIZER}{kept}/{name}": tensor for name, tensor in entries.items()}
    arrays |= {_EMA + name: tensor for name, tensor in state.ema.items()}
    arrays[_BALANCE] = state.balance
    tensors = {name: StoredTensor.of(array) for name, array in arrays.items()}
    about = {
        "format": str(_FORMAT),
        "updates": str(state.updates),
        "skipped": str(state.skipped),
    }
    if manifest is not None:
        about |= {"model": manifest.model}
        about |= {key: compact_json(getattr(manifest, key)) for key in _DESCRIPTION}
    about["sha256"] = state_digest(tensors, about)
    with new_file(path) as temporary, temporary.open("wb") as file:
        write_stored_tensors(file, tensors, about)


def load_state(path: str | Path) -> TrainState:
    """Read a file that `save_state` wrote.

    Raises:
        ArtifactError: the file is missing, damaged or not a training state.
    """
    return take_state(read_tensor_file(path), path)


def take_state(file: TensorFile, path: str | Path) -> TrainState:
    """Return the state in the content of a file, whose tensors are not copied.

    Args:
        file: Content of the file.
        path: Path of the file, for messages.

    Raises:
        ArtifactError: the content is damaged, not a training state, or written by a later version.
    """
    about = dict(file.about)
    found = about.get("format")
    number = _FORMAT.number(found)
    if number is None or "sha256" not in about:
        _FORMAT.check(found, path)
    try:
        checksum = about.pop("sha256", None)
        if checksum != _digest(number, file.tensors, about):
            raise ArtifactError(f"{path} is damaged: its content does not match its sha256")
        _FORMAT.check(found, path)
        tensors = {name: tensor.numpy() for name, tensor in file.tensors.items()}
        return _from_tensors(tensors, about)
    except ArtifactError:
        raise
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is not a complete training state: {excerpt(repr(error))}"
        ) from error


def check_description(about: Mapping[str, str], path: str | Path, manifest: Manifest) -> None:
    """Check that a state has the classes, anchors and strides of a manifest.

    States of version 0.1 do not hold these, and pass.

    Args:
        about: Metadata of the state's file.
        path: Path of that file, for messages.
        manifest: Manifest of the artifacts.

    Raises:
        ArtifactError: the file is damaged.
        ConfigError: a value differs; the message names the first class, the anchors or the strides.
    """
    try:
        found = {key: json.loads(about[key]) for key in _DESCRIPTION if key in about}
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {excerpt(repr(error))}") from error
    for key, theirs in found.items():
        mine = json.loads(json.dumps(getattr(manifest, key)))
        if theirs == mine:
            continue
        if key == "names" and isinstance(theirs, list) and len(theirs) == len(mine):
            index = next(i for i, name in enumerate(mine) if name != theirs[i])
            raise ConfigError(
                f"class {index} is {excerpt(repr(theirs[index]))} in {path} and {mine[index]!r} in "
                "the artifacts; use the artifacts that it was trained with"
            )
        raise ConfigError(
            f"{path} has {key} {excerpt(repr(theirs))}, but the artifacts have "
            f"{excerpt(repr(mine))}; use the artifacts that it was trained with"
        )


def _from_tensors(tensors: dict[str, Array], about: Mapping[str, str]) -> TrainState:
    balance = tensors.pop(_BALANCE)
    optimizer: dict[str, dict[str, Array]] = {}
    for name in [name for name in tensors if name.startswith(_OPTIMIZER)]:
        kept, parameter = name.removeprefix(_OPTIMIZER).split("/", 1)
        optimizer.setdefault(kept, {})[parameter] = tensors.pop(name)
    ema = {
        name.removeprefix(_EMA): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_EMA)
    }
    return TrainState(
        model=tensors,
        optimizer=optimizer,
        balance=balance,
        updates=_count("updates", about["updates"]),
        skipped=_count("skipped", about.get("skipped", "0")),  # not in states of 0.1
        ema=ema,
    )


def _count(key: str, text: str) -> int:
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{key} is {text!r}, expected up to {_DIGITS} decimal digits")
    return int(text)


def _digest(
    number: int | None, tensors: Mapping[str, StoredTensor], about: Mapping[str, str]
) -> str:
    """Return the checksum of a state; later formats than this version's keep that of format 2."""
    return (state_digest_1 if number == 1 else state_digest)(tensors, about)

"""The state of a training: what `save` writes, `resume` reads and both kinds of artifact share."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.runtime.artifact.file_format import FileFormat
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.tensor_file import TensorFile, read_tensor_file, write_tensors
from exportloss.runtime.storage.files import new_file

__all__ = ["TrainState", "check_description", "load_state", "save_state", "take_state"]

Array = npt.NDArray[np.float32]

_FORMAT = FileFormat(
    family="exportloss-state", newest=1, expected="expected a training state, 'exportloss-state/1'"
)
_OPTIMIZER = "optimizer/"  # optimizer/<what>/<parameter>
_EMA = "ema/"  # ema/<parameter or statistic>
_BALANCE = "balance"
_DESCRIPTION = ("names", "anchors", "strides")  # of the manifest, in the metadata as JSON


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class TrainState:
    """Everything that a step changes.

    Attributes:
        model: parameters and statistics by the model's own names, float32.
        optimizer: optimizer state: by kind (`momentum`, or `exp_avg` and `exp_avg_sq`) one tensor
            per trainable parameter, of its shape.
        balance: (nl,) objectness weights.
        updates: optimizer steps done.
        skipped: optimizer steps that were due but skipped, as they would not have been finite.
        ema: moving average of the trained parameters and statistics, by the same names; empty
            where none is kept. Frozen tensors are their own average.
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
    """Write a state as safetensors, under the model's tensor names, with a hash of its content.

    Args:
        path: where to write.
        state: what to write.
        manifest: of the artifacts. The metadata then says what the weights are: `model`, the name
            of the detector, and as JSON `names`, a list in class order, `anchors`, (nl, na, 2) in
            input pixels, and `strides`, a list.

    Raises:
        ArtifactError: the file cannot be written; the one that was there is then untouched.
    """
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in state.model.items()}
    for memory, entries in state.optimizer.items():
        for name, tensor in entries.items():
            tensors[f"{_OPTIMIZER}{memory}/{name}"] = np.ascontiguousarray(tensor)
    tensors |= {_EMA + name: np.ascontiguousarray(tensor) for name, tensor in state.ema.items()}
    tensors[_BALANCE] = np.ascontiguousarray(state.balance)
    about = {
        "format": str(_FORMAT),
        "updates": str(state.updates),
        "skipped": str(state.skipped),
    }
    if manifest is not None:
        about |= {"model": manifest.model}
        about |= {key: json.dumps(getattr(manifest, key), allow_nan=False) for key in _DESCRIPTION}
    about["sha256"] = _digest(tensors, about)
    with new_file(path) as temporary, temporary.open("wb") as file:
        write_tensors(file, tensors, about)


def load_state(path: str | Path) -> TrainState:
    """Read what `save_state` wrote.

    Raises:
        ArtifactError: the file is missing, damaged or something else.
    """
    return take_state(read_tensor_file(path), path)


def take_state(file: TensorFile, path: str | Path) -> TrainState:
    """Take a state from the content of a file; `path` is for the messages.

    Its tensors lie in that content.

    Raises:
        ArtifactError: the content is damaged, is something else, or was written by a later version.
    """
    about = dict(file.about)
    found = about.get("format")
    if _FORMAT.number(found) is None or "sha256" not in about:
        _FORMAT.check(found, path)
    try:
        tensors = {name: tensor.numpy() for name, tensor in file.tensors.items()}
        if about.pop("sha256", None) != _digest(tensors, about):
            raise ArtifactError(f"{path} is damaged: its content does not match its sha256")
        _FORMAT.check(found, path)
        return _from_tensors(tensors, about)
    except ArtifactError:
        raise
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is no complete training state: {excerpt(repr(error))}"
        ) from error


def check_description(about: Mapping[str, str], path: str | Path, manifest: Manifest) -> None:
    """Check that a state is of the classes, anchors and strides that a manifest has.

    A state that does not say is taken at its word: those of version 0.1 do not.

    Args:
        about: metadata of the state's file.
        path: of that file, for messages.
        manifest: of the artifacts.

    Raises:
        ArtifactError: the file is damaged.
        ConfigError: something differs; the first class, or the anchors, are named.
    """
    try:
        said = {key: json.loads(about[key]) for key in _DESCRIPTION if key in about}
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {excerpt(repr(error))}") from error
    for key, theirs in said.items():
        mine = json.loads(json.dumps(getattr(manifest, key)))
        if theirs == mine:
            continue
        if key == "names" and isinstance(theirs, list) and len(theirs) == len(mine):
            index = next(i for i, name in enumerate(mine) if name != theirs[i])
            raise ConfigError(
                f"class {index} is {excerpt(repr(theirs[index]))} in {path} and {mine[index]!r} in "
                "the artifacts; use those that it was trained with"
            )
        raise ConfigError(
            f"{path} has {key} {excerpt(repr(theirs))}, the artifacts have {excerpt(repr(mine))}; "
            "use those that it was trained with"
        )


def _from_tensors(tensors: dict[str, Array], about: Mapping[str, str]) -> TrainState:
    balance = tensors.pop(_BALANCE)
    optimizer: dict[str, dict[str, Array]] = {}
    for name in [name for name in tensors if name.startswith(_OPTIMIZER)]:
        memory, parameter = name.removeprefix(_OPTIMIZER).split("/", 1)
        optimizer.setdefault(memory, {})[parameter] = tensors.pop(name)
    ema = {
        name.removeprefix(_EMA): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(_EMA)
    }
    return TrainState(
        model=tensors,
        optimizer=optimizer,
        balance=balance,
        updates=int(about["updates"]),
        skipped=int(about.get("skipped", 0)),  # not in states of 0.1
        ema=ema,
    )


def _digest(tensors: Mapping[str, Array], about: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()

"""The state of a training: what `save` writes, `resume` reads and both kinds of artifact share."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from exportloss.errors import ArtifactError, excerpt
from exportloss.runtime.files import new_file
from exportloss.runtime.limits import MAX_HEADER_BYTES, MAX_STATE_BYTES, MAX_TENSORS
from exportloss.runtime.manifest import Manifest

__all__ = ["TrainState", "check_tensor_file", "load_state", "read_shapes", "save_state"]

Array = npt.NDArray[np.float32]

_FORMAT = "exportloss-state/1"
_OPTIMIZER = "optimizer/"  # optimizer/<what>/<parameter>
_EMA = "ema/"  # ema/<parameter or statistic>
_BALANCE = "balance"
_LENGTH = 8  # bytes of a safetensors file that say how long its header is
_DESCRIPTION = ("names", "anchors", "strides")  # of the manifest, in the metadata as JSON


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """All that a step changes.

    Attributes:
        model: parameters and statistics by the model's own names.
        optimizer: for each kind of memory (`momentum`, or `exp_avg` and `exp_avg_sq`) a tensor
            a trainable parameter.
        balance: (nl,) objectness weights.
        updates: optimizer steps done.
        skipped: optimizer steps that were due and not done, since they would not have been finite.
        ema: moving average of the trained parameters and statistics, by the same names; empty
            where none is kept. Frozen tensors are their own average.
    """

    model: Mapping[str, Array]
    optimizer: Mapping[str, Mapping[str, Array]]
    balance: Array
    updates: int
    skipped: int = 0
    ema: Mapping[str, Array] = dataclasses.field(default_factory=dict)


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
        "format": _FORMAT,
        "updates": str(state.updates),
        "skipped": str(state.skipped),
    }
    if manifest is not None:
        about |= {"model": manifest.model}
        about |= {key: json.dumps(getattr(manifest, key)) for key in _DESCRIPTION}
    about["sha256"] = _digest(tensors, about)
    with new_file(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=about)
        except SafetensorError as error:  # a full disk, in its words
            raise OSError(str(error)) from error


def load_state(path: str | Path) -> TrainState:
    """Read what `save_state` wrote.

    Raises:
        ArtifactError: the file is missing, damaged or something else.
    """
    check_tensor_file(path)
    with _opened(path) as file:
        about = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if (found := about.get("format")) != _FORMAT:
        raise ArtifactError(
            f"{path} has format {excerpt(repr(found))}; expected a training state, {_FORMAT!r}"
        )
    if about.pop("sha256", None) != _digest(tensors, about):
        raise ArtifactError(f"{path} is damaged: its content does not match its sha256")
    try:
        return _from_tensors(tensors, about)
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is no complete training state: {excerpt(repr(error))}"
        ) from error


def read_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in a safetensors file, without reading them.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    check_tensor_file(path)
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def check_tensor_file(path: str | Path) -> None:
    """Hold a safetensors file to the limits, before memory is taken for it.

    Its header says how long it is and where each tensor lies; the reader refuses tensors that
    reach beyond the file.

    Raises:
        ArtifactError: it is missing, too large, or is cut off within its header.
    """
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"{path} is no readable training state: it is no regular file")
        with Path(path).open("rb") as file:
            header = int.from_bytes(file.read(_LENGTH), "little")
    except (OSError, ValueError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} is no readable training state: {error}") from error
    if status.st_size > MAX_STATE_BYTES or header > MAX_HEADER_BYTES:
        raise ArtifactError(
            f"{path} is no readable training state or weights: it has {status.st_size} bytes and "
            f"says that {header} of them come before the tensors; the most are {MAX_STATE_BYTES} "
            f"and {MAX_HEADER_BYTES}"
        )


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            if (count := len(file.keys())) > MAX_TENSORS:
                raise ArtifactError(f"{path} has {count} tensors; {MAX_TENSORS} is the most")
            yield file
    except ArtifactError:
        raise
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is no readable training state: {error}") from error


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
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()

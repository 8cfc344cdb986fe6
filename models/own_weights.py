"""Weights of a file in a detector of the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from exportloss.errors import ArtifactError
from exportloss.models.weights_file import (
    SUFFIXES,
    class_names,
    read_weights_file,
    refuse_integers,
    with_path,
)

__all__ = ["LoadedWeights", "load_own_weights"]

_FAMILY = ("ultralytics",)  # whose classes the checkpoints of YOLOv8 and later name
_COUNTER = ".num_batches_tracked"  # of BatchNorm; nothing depends on it
_MOST_NAMED = 4  # tensors of each kind in a message
_MOST_CLASSES = 10_000  # of a detector that is built only to compare shapes
_MOST_BUILT = 8  # of these

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadedWeights:
    """Where the weights of a detector come from.

    Attributes:
        what: Description of the file's weights, such as "a state dict".
        taken: Number of tensors that come from the file, without batch counters.
        total: Number of all tensors, without batch counters.
        names: Class names in the file; None if it has none, or of another number of classes.
        num_classes: Number of classes of the file's detector.
    """

    what: str
    taken: int
    total: int
    names: tuple[str, ...] | None
    num_classes: int


def load_own_weights(
    model: nn.Module, path: str | Path, *, rebuild: Callable[[int], nn.Module] | None = None
) -> LoadedWeights:
    """Give a detector the weights of a file; nothing in the file is executed.

    The file holds tensors by the detector's own names: a state dict, a saved training state, or a
    pickled model of YOLOv5 or of the family that followed it, of whose classes the names are read
    and nothing else. All of its tensors must be in the detector, and all of the detector's in it.

    For another number of classes than the file's, tensors whose shape depends on it keep the values
    that they have.

    Args:
        model: Detector, with `num_classes`; changed in place, or not at all.
        path: File that ends in .pt, .pth or .safetensors.
        rebuild: Function that builds the same detector for another number of classes; None if
            there is none, so that the file must be of the same number.

    Raises:
        ArtifactError: the file is missing, unreadable or refused, or its tensors are not those of
            the detector; the message names those missing, those unexpected and those of another
            shape. Or tensors hold integers where the detector has floating point.
    """
    path = Path(path)
    file = read_weights_file(path, packages=_FAMILY, expected=f"weights ({', '.join(SUFFIXES)})")
    own, given = model.state_dict(), file.tensors
    with with_path(path):
        names = class_names(file.names)
        num_classes: int = model.num_classes  # type: ignore[assignment]
        if (wrong := _differences(_shapes(given), _shapes(own))) and rebuild is not None:
            for count in islice(_candidates(given, own, num_classes, names), _MOST_BUILT):
                if not _differences(_shapes(given), _shapes(_built(rebuild, count))):
                    num_classes, wrong = count, ""
                    break
        if wrong:
            raise ArtifactError(f"its tensors are not those of {type(model).__name__}: {wrong}")
        refuse_integers(given, own)
    taken = {
        name: given[name]
        for name, tensor in own.items()
        if name in given and given[name].shape == tensor.shape
    }
    model.load_state_dict({**own, **taken})
    counted = [name for name in own if not name.endswith(_COUNTER)]
    return LoadedWeights(
        what=file.what,
        taken=len(taken.keys() & set(counted)),
        total=len(counted),
        names=names if names is not None and len(names) == model.num_classes else None,
        num_classes=num_classes,
    )


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _built(rebuild: Callable[[int], nn.Module], num_classes: int) -> Mapping[str, Tensor]:
    """Return the tensors of the detector for another number of classes; drawn numbers go on."""
    with torch.random.fork_rng(devices=[]):
        return rebuild(num_classes).state_dict()


def _candidates(
    given: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    num_classes: int,
    names: tuple[str, ...] | None,
) -> Iterator[int]:
    """Yield numbers of classes that the file may have: as it says, or as its shapes tell.

    A tensor of the head has one row per class, or these beside others.
    """
    tried = {num_classes}
    said = [] if names is None else [len(names)]
    for name, tensor in given.items():
        if name in own and tensor.ndim and own[name].ndim and own[name].shape != tensor.shape:
            said += [len(tensor), len(tensor) - len(own[name]) + num_classes]
    for count in said:
        if count not in tried and 1 <= count <= _MOST_CLASSES:
            tried.add(count)
            yield count


def _differences(given: Shapes, own: Shapes) -> str:
    """Describe how tensors differ from the detector's; empty if they do not."""
    counted = [name for name in own if not name.endswith(_COUNTER)]
    kinds = {
        "missing": [repr(name) for name in counted if name not in given],
        "unexpected": [
            repr(name) for name in given if name not in own and not name.endswith(_COUNTER)
        ],
        "of another shape": [
            f"{name!r} {given[name]} instead of {shape}"
            for name, shape in own.items()
            if name in given and given[name] != shape
        ],
    }
    return "; ".join(f"{len(of)} {kind}: {_listed(of)}" for kind, of in kinds.items() if of)


def _listed(texts: list[str]) -> str:
    rest = ", ..." if len(texts) > _MOST_NAMED else ""
    return ", ".join(texts[:_MOST_NAMED]) + rest

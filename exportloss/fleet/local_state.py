"""What a device keeps of a run between rounds: its own norms, and what float16 lost."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.tensor_file import read_tensor_file, write_tensors
from exportloss.runtime.storage.files import new_file

__all__ = ["LocalState"]

Array = npt.NDArray[np.float32]

_NAME = re.compile(r"([0-9a-f]{16})-(\d{1,7})\.safetensors")
_KEPT = 2  # rounds: a server that is resumed asks for its last one again
_MODEL, _RESIDUAL = "model/", "residual"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LocalState:
    """Tensors of one device after a round.

    Attributes:
        model: Tensors that are not shared, by name.
        residual: (P,) what the last float16 difference lost; None before the first.
    """

    model: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    residual: Array | None = None

    @classmethod
    def before(cls, folder: Path, run: str, number: int) -> LocalState:
        """Return the newest state of a run from before a round; an empty one if there is none.

        Raises:
            ArtifactError: the file is damaged.
        """
        found = [(n, path) for r, n, path in _files(folder) if r == run and n < number]
        if not found:
            return cls()
        _, path = max(found)
        tensors = read_tensor_file(path).tensors
        values = {name: np.array(tensor.numpy()) for name, tensor in tensors.items()}
        for name, value in values.items():
            if value.dtype != np.float32 or not np.isfinite(value).all():
                raise ArtifactError(f"{path} is damaged: {name}; remove it to start afresh")
        residual = values.pop(_RESIDUAL, None)
        return cls(
            model={name.removeprefix(_MODEL): value for name, value in values.items()},
            residual=residual,
        )

    def write(self, folder: Path, run: str, number: int) -> None:
        """Write the state after a round, and remove those of other runs and older rounds.

        Raises:
            ArtifactError: the file cannot be written.
        """
        tensors = {_MODEL + name: tensor for name, tensor in self.model.items()}
        if self.residual is not None:
            tensors[_RESIDUAL] = self.residual
        path = folder / f"{run}-{number}.safetensors"
        with new_file(path) as temporary, temporary.open("wb") as file:
            write_tensors(file, tensors, {})
        for other, written, path in _files(folder):
            if other != run or not number - _KEPT < written <= number:
                path.unlink(missing_ok=True)


def _files(folder: Path) -> Iterator[tuple[str, int, Path]]:
    for path in folder.glob("*.safetensors"):
        if match := _NAME.fullmatch(path.name):
            yield match[1], int(match[2]), path

"""The folder of one training run, laid out as YOLOv5's."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import platform
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from exportloss.errors import ArtifactError
from exportloss.reading import read_yaml_mapping
from exportloss.runtime.files import new_file
from exportloss.runtime.locks import is_at, lock

__all__ = ["RunFolder", "read_yaml", "write_yaml"]

_LOCK = ".lock"  # in a folder that is being trained
_LONGEST_HOLDER = 200  # characters that tell who trains
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what."""

    path: Path

    @property
    def results(self) -> Path:
        """Losses and rates of every epoch."""
        return self.path / "results.csv"

    @property
    def last(self) -> Path:
        """State after the last epoch, to resume from."""
        return self.path / "weights" / "last.safetensors"

    @property
    def best(self) -> Path:
        """State after the epoch of the lowest loss."""
        return self.path / "weights" / "best.safetensors"

    @property
    def best_onnx(self) -> Path:
        """The detector of the best epoch, for inference."""
        return self.path / "weights" / "best.onnx"

    @property
    def skipped_batch(self) -> Path:
        """The batch that ended the run, where too many steps were skipped."""
        return self.path / "skipped_batch.npz"

    @property
    def options(self) -> Path:
        """Options of the command that started the run."""
        return self.path / "opt.yaml"

    @property
    def hyp(self) -> Path:
        """Hyperparameters of training and loss, defaults included."""
        return self.path / "hyp.yaml"

    @property
    def artifacts(self) -> Path:
        """What the run exported for itself, if it was started from a model's name or file."""
        return self.path / "artifacts"

    @classmethod
    def create(cls, project: str | Path, name: str, *, exist_ok: bool = False) -> RunFolder:
        """Make `project/name`, or the first free of `name2`, `name3`, ... where that exists.

        Args:
            project: folder of runs; made where it is missing.
            name: of the run.
            exist_ok: use `project/name` even if it exists.

        Raises:
            ArtifactError: the folder cannot be made.
        """
        for number in itertools.count(1):
            path = Path(project) / (name if number == 1 else f"{name}{number}")
            try:
                path.mkdir(parents=True, exist_ok=exist_ok)
            except FileExistsError as error:
                if exist_ok:
                    raise ArtifactError(f"{path} is a file; choose another --name") from error
            except OSError as error:
                raise ArtifactError(f"{path} cannot be made: {error}") from error
            else:
                return cls(path)
        raise AssertionError("unreachable: count never ends")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other training off this folder for a while.

        The lock goes when the process does, `kill -9` included. Whoever holds it may take it again
        (in the same thread). On a file system without locks nothing is kept off.

        Raises:
            ArtifactError: another training has it; the message names its process.
        """
        path = (self.path / _LOCK).resolve()
        if path in _held.get():
            yield
            return
        with _open_locked(path):
            token = _held.set(_held.get() | {path})
            try:
                yield
            finally:
                _held.reset(token)
                with contextlib.suppress(OSError):  # what lies there is no obstacle to the next
                    path.unlink()

    def clear(self) -> None:
        """Remove the weights and results of an earlier run, so that none pass for this one's."""
        for path in (self.last, self.best, self.best_onnx, self.results, self.skipped_batch):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _open_locked(path: Path) -> Iterator[None]:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise ArtifactError(f"{path.parent} cannot be written to: {error}") from error
        with file:
            try:
                lock(file.fileno())
            except BlockingIOError as error:
                file.seek(0)
                raise ArtifactError(
                    f"{path.parent} is being trained by {file.read(_LONGEST_HOLDER) or 'another'}; "
                    "wait until it is done, or stop it, or train into another folder (--name)"
                ) from error
            if not is_at(file.fileno(), path):
                continue  # whoever had it is done, and has removed it
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            yield
            return


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping, atomically, in its order.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with new_file(path) as temporary:
        text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)
        temporary.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # yaml has no types
    def ignore_aliases(self, data: Any) -> bool:
        """Write what is there twice twice: `read_yaml` takes no aliases."""
        return True


def read_yaml(path: Path) -> dict[str, Any]:
    """Read what `write_yaml` wrote.

    Raises:
        ArtifactError: the file is missing or damaged.
    """
    try:
        read = read_yaml_mapping(path, expected="`key: value` lines", error=ArtifactError)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path.parent} is no training run: {path.name} is not readable ({error})"
        ) from error
    return dict(read.values)

"""The folder of one training run, laid out as YOLOv5's."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import stat
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import yaml

from exportloss.errors import ArtifactError
from exportloss.reading import read_yaml_mapping
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.training.run_lock import locked_file

__all__ = ["RunFolder", "read_yaml", "write_yaml"]

_LOCK = ".lock"  # exists while the run is trained
# Device and inode of the folders that this thread has locked.
_held: ContextVar[frozenset[tuple[int, int]]] = ContextVar("held", default=frozenset())


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """Paths of the files of a run.

    Attributes:
        path: Folder of the run.
    """

    path: Path

    @property
    def results(self) -> Path:
        """Losses, metrics and rates of every epoch."""
        return self.path / "results.csv"

    @property
    def log(self) -> Path:
        """The start and every epoch, as JSON lines."""
        return self.path / "results.jsonl"

    @property
    def events(self) -> Path:
        """Every epoch, for TensorBoard, which recognizes the file by `tfevents` in its name."""
        return self.path / "events.out.tfevents.0.exportloss"

    @property
    def last(self) -> Path:
        """State after the last epoch, to resume from."""
        return self.path / "weights" / "last.safetensors"

    @property
    def best(self) -> Path:
        """State after the epoch of the highest fitness, or at the start where none is better."""
        return self.path / "weights" / "best.safetensors"

    def of_epoch(self, epoch: int) -> Path:
        """State after an epoch, if it was kept."""
        return self.path / "weights" / f"epoch{epoch}.safetensors"

    @property
    def best_onnx(self) -> Path:
        """Detector of `best`, for inference."""
        return self.path / "weights" / "best.onnx"

    @property
    def last_onnx(self) -> Path:
        """Detector of `last`, for inference; missing while a run is trained further."""
        return self.path / "weights" / "last.onnx"

    @property
    def skipped_batch(self) -> Path:
        """Batch that ended the run, if too many steps were skipped."""
        return self.path / "skipped_batch.npz"

    @property
    def options(self) -> Path:
        """Options of the command that started the run."""
        return self.path / "opt.yaml"

    @property
    def origin(self) -> Path:
        """Starting point of the run, see `Origin`."""
        return self.path / "origin.json"

    @property
    def hyp(self) -> Path:
        """Hyperparameters of training and loss, defaults included."""
        return self.path / "hyp.yaml"

    @property
    def artifacts(self) -> Path:
        """Artifacts that the run exported itself, if it was started from a model's name or file."""
        return self.path / "artifacts"

    @classmethod
    def create(cls, project: str | Path, name: str, *, exist_ok: bool = False) -> RunFolder:
        """Make `project/name`, or the first free one of `name2`, `name3`, ... if that exists.

        Args:
            project: Folder of runs; made if it is missing.
            name: Name of the run.
            exist_ok: True to use `project/name` even if it exists.

        Raises:
            ArtifactError: the folder cannot be made, or is a link to another.
        """
        for number in itertools.count(1):
            path = Path(project) / (name if number == 1 else f"{name}{number}")
            try:
                path.mkdir(parents=True, exist_ok=exist_ok)
                if path.is_symlink():
                    raise _linked(path)
            except FileExistsError as error:
                if exist_ok:
                    raise ArtifactError(f"{path} is a file; choose another name") from error
            except OSError as error:
                raise ArtifactError(f"{path} cannot be made: {error}") from error
            else:
                return cls(path)
        raise AssertionError("unreachable: count never ends")

    def subfolder(self, *names: str) -> Path:
        """Return a folder below this one, made if it is missing.

        Raises:
            ArtifactError: it cannot be made, or is a link, which leads to files outside the run.
        """
        path = self.path
        for name in names:
            path = path / name
            try:
                path.mkdir(exist_ok=True)
            except OSError as error:
                raise ArtifactError(f"{path} cannot be made: {error}") from error
            if path.is_symlink():
                raise _linked(path)
        return path

    def check(self) -> None:
        """Check that no file of the run lies elsewhere, where writing would change other files.

        Raises:
            ArtifactError: a file or folder of the run is a link, or of another kind.
        """
        folders = (self.last.parent, self.artifacts)
        files = (
            *(self.results, self.log, self.events, self.options, self.hyp, self.origin),
            *(self.last, self.best, self.last_onnx, self.best_onnx),
        )
        for path, is_kind, kind in (
            *((path, stat.S_ISDIR, "folder") for path in folders),
            *((path, stat.S_ISREG, "regular file") for path in files),
        ):
            try:
                is_right = is_kind(path.lstat().st_mode)
            except OSError:  # missing, or reported when it is opened
                continue
            if not is_right:
                raise ArtifactError(
                    f"{path} is no {kind} but a link or something else; a run keeps its files in "
                    "its own folder: move it there, or remove it"
                )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this folder, which keeps every other training off it.

        The lock ends with the process, even if it is killed. The thread that holds it may take it
        again. On a file system without locks there is no protection.

        Raises:
            ArtifactError: another training holds the lock (the message names its process), or the
                folder holds links, see `check`.
        """
        if self._is_held():
            yield
            return
        with locked_file(self.path / _LOCK):
            self.check()
            token = _held.set(_held.get() | {_identity(self.path)})
            try:
                yield
            finally:
                _held.reset(token)

    def check_held(self) -> None:
        """Check that the folder is still the one that was locked.

        Raises:
            ArtifactError: the folder was removed or replaced.
        """
        if not self._is_held():
            raise ArtifactError(
                f"{self.path} was removed or replaced while it was trained; start a new run"
            )

    def _is_held(self) -> bool:
        try:
            return _identity(self.path) in _held.get()
        except OSError:
            return False

    def clear(self) -> None:
        """Remove the weights and results of an earlier run, so that none are taken for this run's.

        Raises:
            ArtifactError: a file cannot be removed.
        """
        weights = self.last, self.best, self.last_onnx, self.best_onnx
        kept = self.last.parent.glob("epoch*.safetensors")
        for path in (*weights, self.results, self.log, self.skipped_batch, *kept):
            _remove(path)

    def remove_last_onnx(self) -> None:
        """Remove the detector of the last state, which is about to be replaced.

        Raises:
            ArtifactError: the file cannot be removed.
        """
        _remove(self.last_onnx)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be removed: {error}") from error


def _linked(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path} is a link; expected a folder: name the one that it leads to, or remove the link"
    )


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, atomically, in its order.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with new_file(path) as temporary:
        text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False)
        temporary.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc] # yaml has no types
    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values in full: `read_yaml` accepts no aliases."""
        return True


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping that `write_yaml` wrote.

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

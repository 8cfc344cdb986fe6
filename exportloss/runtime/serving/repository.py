"""A model repository: a folder per model, and in it a numbered folder per version.

Triton and OpenVINO Model Server serve the highest number by default, and look at no folder whose
name is no number. So a version serves from the moment at which its folder, complete, gets its
number as a name, and until it gives that name up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.runtime.storage.temporary import as_artifact_error, sync, temporary_beside, umask
from exportloss.runtime.training.run_lock import locked_file

__all__ = ["CONFIG", "MODEL", "SERVERS", "WITHDRAWN", "ModelRepository"]

MODEL = "model.onnx"
CONFIG = "config.pbtxt"  # of Triton, per model
SERVERS = "config.json"  # of OpenVINO Model Server, for all models
WITHDRAWN = "withdrawn"
_NUMBER = re.compile(r"[1-9]\d{0,8}", re.ASCII)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class ModelRepository:
    """Folders of one model in a repository.

    Attributes:
        path: Folder of the repository.
        name: Name of the model: lower-case letters, digits and hyphens, as Kubernetes has it.

    Raises:
        ConfigError: the name is none that every server takes.
    """

    path: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"name is {excerpt(repr(self.name))}; expected 1 to 63 lower-case letters, digits "
                "and hyphens, the first and last no hyphen: a name that every server takes",
                argument="name",
            )

    @property
    def model(self) -> Path:
        """Folder of the model."""
        return self.path / self.name

    @property
    def config(self) -> Path:
        """Triton's description of the model."""
        return self.model / CONFIG

    def check(self) -> None:
        """Check that the folder is a model repository, or one can be made there.

        Raises:
            ArtifactError: the folder holds something else, or the model's folder is a link.
        """
        with as_artifact_error(self.path):
            if not self.path.exists() and not self.path.is_symlink():
                return
            if not self.path.is_dir():
                raise ArtifactError(f"{self.path} is no folder; expected a model repository")
            for entry in sorted(self.path.iterdir()):
                if not _belongs(entry):
                    raise ArtifactError(
                        f"{self.path} is no model repository: it holds {entry.name}; expected a "
                        f"folder per model, with a {CONFIG} or numbered versions. Name another "
                        "folder"
                    )
            for place in (self.model, self.model / WITHDRAWN):
                if place.is_symlink():
                    raise ArtifactError(f"{place} is a link; a model keeps its versions itself")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other publisher off the repository; the lock ends with the process.

        Raises:
            ArtifactError: another process publishes, or the folder cannot be written to.
        """
        existed = self.path.exists()
        try:
            with locked_file(
                self.path / ".lock", doing="published to", advice="wait until it is done"
            ):
                yield
        finally:
            if not existed:
                with contextlib.suppress(OSError):  # it is not empty once something serves
                    self.path.rmdir()

    def versions(self) -> list[int]:
        """Return the numbers of the versions, ascending; the last one serves."""
        return _numbers(self.model)

    def version(self, number: int) -> Path:
        """Return the folder of a version."""
        return self.model / str(number)

    @property
    def next_number(self) -> int:
        """Number of the next version; that of a withdrawn one is not used again."""
        return max((0, *self.versions(), *_numbers(self.model / WITHDRAWN))) + 1

    @contextlib.contextmanager
    def new_version(self) -> Iterator[Path]:
        """Yield a temporary folder; at the end of the block it becomes the version that serves.

        Whatever interrupts the block, the version before goes on serving. What a killed process
        leaves is removed with the next version.

        Raises:
            ArtifactError: the folder cannot be written to.
        """
        target = self.version(self.next_number)
        existed = self.model.exists()
        with as_artifact_error(target):
            try:
                with temporary_beside(target, folder=True) as temporary:
                    yield temporary
                    temporary.chmod(0o777 & ~umask())
                    for path in temporary.iterdir():
                        path.chmod(0o666 & ~umask())
                        sync(path)
                    sync(temporary)
                    temporary.rename(target)
                    sync(self.model)
            finally:
                if not existed:
                    with contextlib.suppress(OSError):  # it is not empty once it serves
                        self.model.rmdir()

    def withdraw(self) -> int:
        """Let the version before the last one serve again, and return its number.

        Raises:
            ConfigError: there is none.
            ArtifactError: the folder cannot be written to.
        """
        versions = self.versions()
        if len(versions) < 2:
            raise ConfigError(
                f"{self.model} has too few versions to go back by one: {len(versions)}; expected "
                "two or more"
            )
        last = self.version(versions[-1])
        with as_artifact_error(last):
            aside = self.model / WITHDRAWN / last.name
            aside.parent.mkdir(exist_ok=True)
            last.rename(aside)
            sync(self.model)
        return versions[-2]


def _numbers(folder: Path) -> list[int]:
    try:
        names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except OSError:  # missing
        return []
    return sorted(int(name) for name in names if _NUMBER.fullmatch(name))


def _belongs(entry: Path) -> bool:
    """Return whether an entry may lie in a model repository."""
    if entry.name.startswith(".") or entry.name == SERVERS:
        return True
    if not entry.is_dir():
        return False
    if (entry / CONFIG).is_file() or _numbers(entry):
        return True
    return all(each.name.startswith(".") for each in entry.iterdir())  # a killed publisher's

"""`origin.json`: what a run was started from, which joins rounds of training into a history."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from pathlib import Path

import numpy as np

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.reading import open_regular, read_bounded, sha256_of
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.storage.files import new_file

__all__ = ["Origin", "data_digest", "file_digest", "read_origin", "write_origin"]

_MOST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Starting point of a run.

    Attributes:
        weights: Absolute path of the state with the first weights; empty if those of the artifacts
            were used.
        sha256: SHA-256 of that state, or of the artifacts' manifest, hexadecimal.
        run: Absolute path of the run that the state belongs to; empty if it belongs to none.
        data: SHA-256 of the training images' names, sizes and labels, hexadecimal.
        created: Time of the start, ISO 8601 with offset from UTC.
        artifacts: Digest of the artifacts' manifest, hexadecimal; empty in files of versions that
            did not write it.
    """

    weights: str
    sha256: str
    run: str
    data: str
    created: str
    artifacts: str = ""

    @property
    def manifest_digest(self) -> str:
        """Digest of the artifacts' manifest, hexadecimal; empty if unknown."""
        return self.artifacts or ("" if self.weights else self.sha256)

    @classmethod
    def now(cls, *, state: Path | None, manifest: Path, run: Path | None, data: str) -> Origin:
        """Describe a run that starts now.

        Args:
            state: State with the first weights; None for those of the artifacts.
            manifest: Manifest file of the artifacts.
            run: Run that the state belongs to; None if it belongs to none.
            data: Digest as from `data_digest`.

        Raises:
            ArtifactError: a file cannot be read.
        """
        return cls(
            weights="" if state is None else str(state.resolve()),
            sha256=file_digest(state or manifest),
            run="" if run is None else str(run.resolve()),
            data=data,
            artifacts=file_digest(manifest),
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )

    def check_weights(self) -> Path | None:
        """Return the state that the run began with, checked to be unchanged; None if there is none.

        Raises:
            ArtifactError: the state cannot be read.
            ConfigError: the state has changed since.
        """
        if not self.weights:
            return None
        if (found := file_digest(Path(self.weights))) != self.sha256:
            raise ConfigError(
                f"{self.weights} has sha256 {found[:12]}..., expected {self.sha256[:12]}... as "
                "when the run was started from it; start a new run"
            )
        return Path(self.weights)


def write_origin(path: Path, origin: Origin) -> None:
    """Write a run's origin, atomically.

    Raises:
        ArtifactError: the file cannot be written.
    """
    with new_file(path) as temporary:
        text = json.dumps(dataclasses.asdict(origin), indent=2, allow_nan=False)
        temporary.write_text(f"{text}\n", encoding="utf-8")


def read_origin(path: Path) -> Origin | None:
    """Read a run's origin; None if there is no file, as in runs of version 0.1.

    Raises:
        ArtifactError: the file is damaged.
    """
    try:
        values = json.loads(read_bounded(path, _MOST_BYTES, error=ArtifactError))
        values = {"artifacts": "", **values}
        fields = {field.name: values[field.name] for field in dataclasses.fields(Origin)}
        if not all(isinstance(value, str) for value in fields.values()):
            raise ValueError("expected text for every value")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path} does not say what the run was started from: {excerpt(repr(error))}"
        ) from error
    return Origin(**fields)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        with open_regular(path, error=ArtifactError) as file:
            return sha256_of(file)
    except ArtifactError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def data_digest(batches: Batches) -> str:
    """Return the SHA-256 of a data set's image names, sizes and labels, independent of folders."""
    digest = hashlib.sha256()
    images = zip(batches.dataset.images, batches.sizes, batches.labels, strict=True)
    for path, size, rows in images:
        digest.update(f"{path.name}\0{size}\0{rows.shape}\0".encode(errors="surrogateescape"))
        digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()

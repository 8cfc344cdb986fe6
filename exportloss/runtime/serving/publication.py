"""A detector published as the next version of a model, if it is better than the one that serves."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.onnx_files.onnx_file import (
    OnnxFile,
    OnnxValue,
    parse_onnx,
    read_onnx,
)
from exportloss.runtime.evaluation.scores import Scores
from exportloss.runtime.serving.repository import (
    CONFIG,
    MODEL,
    SERVERS,
    WITHDRAWN,
    ModelRepository,
)
from exportloss.runtime.serving.server_configs import (
    kserve_manifest,
    openvino_config,
    triton_config,
)
from exportloss.runtime.sessions.devices import CPU
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.installation import import_onnxruntime
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.training.origin import file_digest

__all__ = ["RECORD", "Publication", "Published", "check_model", "publish", "read_record"]

RECORD = "published.json"
_KSERVE = "kserve.yaml"
_MOST_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Publication:
    """Record of a version, in its folder.

    Attributes:
        sha256: SHA-256 of the model's file, hexadecimal.
        run: Absolute path of the run that made it; empty if it was given as a file.
        weights: SHA-256 of the run's best state, hexadecimal; empty without a run.
        data: SHA-256 of the images' names, sizes and labels that it was judged on, hexadecimal.
        map50: mAP50 on them.
        map50_95: mAP50-95 on them.
        created: Time, ISO 8601 with offset from UTC.
    """

    sha256: str
    run: str
    weights: str
    data: str
    map50: float
    map50_95: float
    created: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """Result of `publish`.

    Attributes:
        version: Number of the version that serves now.
        is_new: Whether that is the given detector.
        scores: Scores of the given detector.
        before: Scores of the version that served before; None if there was none.
    """

    version: int
    is_new: bool
    scores: Scores
    before: Scores | None


def publish(
    repository: ModelRepository,
    detector: Path,
    judge: Callable[[bytes, Path], Scores],
    *,
    data: str,
    run: Path | None = None,
    weights: Path | None = None,
    even_if_worse: bool = False,
) -> Published:
    """Publish a detector, if its fitness is above that of the version that serves.

    Both are judged on the same data now. Whenever the process ends, the version before serves or
    the new one does, each complete.

    Args:
        repository: Repository and name.
        detector: ONNX file of the detector.
        judge: Function from a detector's content and its file, for messages, to its scores.
        data: Digest of what it judges on.
        run: Run that made the detector; None if there is none.
        weights: Best state of the run; None if there is none.
        even_if_worse: Whether to publish in any case.

    Raises:
        ArtifactError: the folder is no repository, another process publishes to it, the model of
            that name is someone else's, or a file is damaged or cannot be written.
        ConfigError: the detector has other inputs, outputs or classes than the version that serves.
    """
    repository.check()
    content = read_onnx(detector)
    graph = parse_onnx(content)
    session = open_graph(import_onnxruntime(), detector, CPU, threads=1, content=content)
    config = triton_config(repository.name, session)
    with repository.locked():
        versions, before = repository.versions(), None
        if versions:
            serving = repository.version(versions[-1]) / MODEL
            read_record(serving.parent)  # ours
            served = read_onnx(serving)
            _check_same_interface(graph, parse_onnx(served), serving)
            before = judge(served, serving)
        else:
            _check_vacant(repository)
        scores = judge(content, detector)
        if before is not None and not even_if_worse and scores.fitness <= before.fitness:
            return Published(version=versions[-1], is_new=False, scores=scores, before=before)
        record = Publication(
            sha256=hashlib.sha256(content).hexdigest(),
            run="" if run is None else str(run.resolve()),
            weights="" if weights is None else file_digest(weights),
            data=data,
            map50=scores.map50,
            map50_95=scores.map50_95,
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        )
        number = repository.next_number
        with repository.new_version() as folder:  # complete before it serves
            (folder / MODEL).write_bytes(content)
            text = json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False)
            (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")
            _describe(repository, config)
        return Published(version=number, is_new=True, scores=scores, before=before)


def read_record(version: Path) -> Publication:
    """Read the record of a version.

    Args:
        version: Folder of the version.

    Raises:
        ArtifactError: the version has none, so that this package did not publish it, or it is
            damaged.
    """
    path = version / RECORD
    try:
        values = json.loads(read_bounded(path, _MOST_BYTES, error=ArtifactError))
        fields = {field.name: values[field.name] for field in dataclasses.fields(Publication)}
        for field in dataclasses.fields(Publication):
            if type(fields[field.name]).__name__ != field.type:
                raise ValueError(f"{field.name} is {fields[field.name]!r}")
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{version} has no {RECORD}: someone else put it there; publish under another name"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged: {excerpt(repr(error))}") from error
    return Publication(**fields)


def check_model(version: Path, record: Publication) -> None:
    """Check that a version's model is the one that was published.

    Args:
        version: Folder of the version.
        record: Its record.

    Raises:
        ArtifactError: the file is missing, damaged or another one.
    """
    path = version / MODEL
    found = file_digest(path)
    if found != record.sha256:
        raise ArtifactError(
            f"{path} has the SHA-256 {found[:12]}, expected {record.sha256[:12]}, that of the "
            "published file; it was changed since: publish another version"
        )


def _describe(repository: ModelRepository, config: str) -> None:
    """Write what servers are told, before there is a version that they would need it for."""
    servers = repository.path / SERVERS
    for path, text in (
        (repository.config, config),
        (repository.model / _KSERVE, kserve_manifest(repository.name)),
        (servers, openvino_config(servers, repository.name)),
    ):
        with new_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _check_vacant(repository: ModelRepository) -> None:
    """Check that a model's folder without versions holds nothing but what this package writes."""
    own = {CONFIG, _KSERVE, WITHDRAWN}
    if not repository.model.exists():
        return
    for entry in sorted(repository.model.iterdir()):
        if entry.name not in own and not entry.name.startswith("."):
            raise ArtifactError(
                f"{repository.model} holds {entry.name} and no version; publish under another name"
            )


def _check_same_interface(new: OnnxFile, served: OnnxFile, path: Path) -> None:
    """Refuse a detector for which the clients of the one that serves would have to change."""
    for what, mine, theirs in (
        ("inputs", _shapes(new.inputs), _shapes(served.inputs)),
        ("outputs", _shapes(new.outputs), _shapes(served.outputs)),
        ("names", new.metadata.get("names", ""), served.metadata.get("names", "")),
    ):
        if mine != theirs:
            raise ConfigError(
                f"the detector has {what} {excerpt(mine, 200)}, but {path}, which serves, has "
                f"{excerpt(theirs, 200)}; its clients expect the same: publish under another name",
                argument="name",
            )


def _shapes(values: Mapping[str, OnnxValue]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())

"""`manifest.json`: what an artifacts folder is, and the hashes that tell whether it is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from exportloss.class_names import bad_name
from exportloss.config import LossConfig
from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded
from exportloss.runtime.limits import (
    MAX_ARTIFACT_FILES,
    MAX_CLASSES,
    MAX_IMAGE_SIDE,
    MAX_MANIFEST_BYTES,
    MAX_MODEL_BYTES,
    MAX_ROWS,
    MAX_STATE_BYTES,
)
from exportloss.runtime.replacing import recover_folder
from exportloss.runtime.seal import seal_text, text_is_whole

__all__ = [
    "MANIFEST_NAME",
    "STATE_NAME",
    "BatchNormStatistics",
    "FileEntry",
    "Head",
    "Kind",
    "Layout",
    "LossProvider",
    "Manifest",
    "OptimizerName",
    "ParameterGroupNames",
    "Precision",
    "check_tiers",
]

MANIFEST_NAME = "manifest.json"
STATE_NAME = "state.safetensors"  # of the portable step
_LONGEST_NAME = 255  # characters of a file's name
FORMAT = "exportloss/2"
_UNSEALED_FORMAT = "exportloss/1"  # of 0.1: the manifest has no sha256 of its own

Kind = Literal["ort-training", "train-step", "loss"]
OptimizerName = Literal["sgd", "adam", "adamw"]
Precision = Literal["float32", "float16", "bfloat16"]
Head = Literal["dense", "sparse"]
Layout = Literal["permuted", "head-output", "head-input"]
LossProvider = Literal["any", "cpu", "gpu"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of the folder."""

    sha256: str
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterGroupNames:
    """YOLOv5's three optimizer groups, trainable parameters only; weights alone decay."""

    weights: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every trainable parameter: weights, norms, biases."""
        return self.weights + self.norms + self.biases


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNormStatistics:
    """Running statistics of one trained BatchNorm layer.

    Attributes:
        mean: name of the running mean.
        var: name of the running variance.
        count: values that a batch gives each channel, B * H * W.
        momentum: share of the new batch, as torch counts it (0.03 in YOLOv5).
    """

    mean: str
    var: str
    count: int
    momentum: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of an artifacts folder.

    Attributes:
        kind: what the folder holds.
        model: name of the detector, such as `yolov5n`; empty for a loss alone.
        names: class names in class order.
        anchors: (nl, na, 2) width and height in input pixels.
        strides: (nl,) input pixels per cell.
        image_size: height and width of the pictures, pixels.
        batch_size: pictures in a batch.
        max_targets: target rows in a batch.
        tiers: for a loss alone, smaller numbers of target rows that have a graph of their own.
        loss: options of the loss.
        gradients: for a loss alone, whether its graph gives the gradients of the predictions.
        loss_layout: for a loss alone, what its graph starts from; see `export_loss`.
        provider: what the graphs were written for: "any" runtime; ONNX Runtime's "cpu" provider,
            which alone can run them; or a "gpu", whose writes have no order.
        optimizer: which optimizer the artifact is made for; None for a loss alone.
        ema: whether a moving average of the weights is kept beside them.
        precision: what the network computes in when it trains; weights, statistics, loss and
            optimizer are float32.
        groups: trainable parameters.
        statistics: BatchNorm layers whose statistics are trained.
        head: where the detector's head is evaluated in training: everywhere, or where the loss
            looks.
        layout: for the portable step, where each tensor lies in the flat state.
        opset: the newest of the graphs, `ai.onnx`.
        versions: of the packages that wrote the folder.
        files: every file but the manifest.
    """

    kind: Kind
    model: str = ""
    names: tuple[str, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...]
    strides: tuple[float, ...]
    image_size: tuple[int, int]
    batch_size: int
    max_targets: int
    tiers: tuple[int, ...] = ()
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    gradients: bool = False
    loss_layout: Layout = "permuted"
    provider: LossProvider = "any"
    optimizer: OptimizerName | None = None
    ema: bool = False
    precision: Precision = "float32"
    groups: ParameterGroupNames = dataclasses.field(default_factory=ParameterGroupNames)
    statistics: tuple[BatchNormStatistics, ...] = ()
    head: Head = "dense"
    layout: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    opset: int
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, FileEntry] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def trained(self) -> tuple[str, ...]:
        """What a step changes: the trainable parameters, then the statistics."""
        statistics = (name for norm in self.statistics for name in (norm.mean, norm.var))
        return (*self.groups.all, *statistics)

    @property
    def averaged(self) -> tuple[str, ...]:
        """What the moving average is of: all that is trained, if it is kept."""
        return self.trained if self.ema else ()

    @property
    def loss_graphs(self) -> dict[int, str]:
        """For a loss alone, its files by the number of target rows, the fewest first."""
        return {slots: f"loss-{slots}.onnx" for slots in self.tiers} | {
            self.max_targets: "loss.onnx"
        }

    def to_json(self) -> str:
        """Return the text of `manifest.json`, which holds the sha256 of the rest of itself."""
        values = {"sha256": "", "format": FORMAT, **dataclasses.asdict(self)}
        return seal_text(json.dumps(values, indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check a folder's manifest; the files themselves are not looked at.

        Raises:
            ArtifactError: the folder is no artifact, or of a format this version cannot open.
        """
        path = Path(folder) / MANIFEST_NAME
        recover_folder(Path(folder))
        try:
            content = read_bounded(path, MAX_MANIFEST_BYTES, error=ArtifactError)
            values = json.loads(content.decode())
        except FileNotFoundError as error:
            raise ArtifactError(
                f"{folder} is no artifacts folder: it has no {MANIFEST_NAME}; "
                "make one with `exportloss export`"
            ) from error
        except ArtifactError:
            raise
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"{path} is not readable: {error}; export again") from error
        found = values.get("format") if isinstance(values, dict) else None
        if found not in (FORMAT, _UNSEALED_FORMAT):
            raise ArtifactError(
                f"{path} has format {excerpt(repr(found))}; this version opens "
                f"{_UNSEALED_FORMAT!r} and {FORMAT!r}"
            )
        is_sealed = found == FORMAT or "sha256" in values
        if is_sealed and not text_is_whole(content, values.get("sha256")):
            raise ArtifactError(
                f"{path} is damaged or was edited: its content does not match its sha256; copy the "
                "folder again, or export again"
            )
        try:
            return _from_values(values)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = excerpt(repr(error), 200)
            raise ArtifactError(f"{path} is damaged: {problem}; export again") from error

    def verify_files(self, folder: str | Path) -> None:
        """Compare every file's size and sha256 with the manifest; errors as for `read_files`."""
        for name, entry in self._listed(folder):
            read_listed_file(Path(folder) / name, entry)

    def read_files(self, folder: str | Path) -> dict[str, bytes]:
        """Return the content of every file, by name, once it is known to be what was exported.

        Raises:
            ArtifactError: a file is missing, is a link, or is not the one that was exported.
        """
        return {
            name: read_listed_file(Path(folder) / name, entry)
            for name, entry in self._listed(folder)
        }

    def _listed(self, folder: str | Path) -> Iterable[tuple[str, FileEntry]]:
        if len(self.files) > MAX_ARTIFACT_FILES:
            raise ArtifactError(
                f"{folder}: the manifest names {len(self.files)} files; a folder has "
                f"{MAX_ARTIFACT_FILES} at most"
            )
        for name in self.files:
            is_plain = name not in ("", "..") and name.isprintable() and len(name) <= _LONGEST_NAME
            if Path(name).name != name or not is_plain:
                named = excerpt(ascii(name))
                raise ArtifactError(f"{folder}: the manifest names {named}, outside the folder")
        return self.files.items()


def read_listed_file(path: Path, entry: FileEntry) -> bytes:
    """Return the content of a file that a manifest names.

    Raises:
        ArtifactError: it is missing, is no regular file, or is another one.
    """
    most = MAX_STATE_BYTES if path.suffix == Path(STATE_NAME).suffix else MAX_MODEL_BYTES
    if entry.size > most:
        raise ArtifactError(f"{path} has {entry.size} bytes; {most} is the most")
    try:
        content = read_bounded(path, most, error=ArtifactError, follow=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; export again or copy the folder again") from error
    if len(content) != entry.size:
        raise ArtifactError(
            f"{path} is damaged: it has {len(content)} bytes, the manifest says {entry.size}; "
            "export again or copy the folder again"
        )
    if (found := hashlib.sha256(content).hexdigest()) != entry.sha256:
        raise ArtifactError(
            f"{path} is damaged: its sha256 is {found[:12]}..., the manifest says "
            f"{excerpt(entry.sha256, 12)}; export again or copy the folder again"
        )
    return content


def describe_file(path: Path) -> FileEntry:
    """Hash a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(sha256=digest, size=path.stat().st_size)


def check_tiers(
    tiers: Sequence[int], max_targets: int, *, error: type[Exception] = ValueError
) -> None:
    """See that these are numbers of target rows that can have graphs beside that of the most.

    Raises:
        error: they are not ascending, below 1, not below `max_targets`, or more than a folder has.
    """
    steps = (0, *tiers, max_targets)
    if any(less >= more for less, more in pairwise(steps)) or len(tiers) >= MAX_ARTIFACT_FILES:
        raise error(
            f"tiers are {excerpt(tuple(tiers))}; expected fewer than {MAX_ARTIFACT_FILES}, "
            f"ascending, each at least 1 and below max_targets, {max_targets}"
        )


def _one_of(choices: Any, value: Any) -> Any:
    if value not in get_args(choices):
        raise ValueError(f"got {value!r}, expected one of {get_args(choices)}")
    return value


def _from_values(values: dict[str, Any]) -> Manifest:
    kind, optimizer = values["kind"], values["optimizer"]
    if kind not in get_args(Kind):
        raise ValueError(f"kind is {kind!r}, expected one of {get_args(Kind)}")
    if optimizer not in (None, *get_args(OptimizerName)):
        raise ValueError(f"optimizer is {optimizer!r}, expected {get_args(OptimizerName)}")
    precision = values.get("precision", "float32")
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}, expected one of {get_args(Precision)}")
    manifest = Manifest(
        kind=kind,
        model=str(values["model"]),
        names=tuple(str(name) for name in values["names"]),
        anchors=tuple(tuple((float(w), float(h)) for w, h in level) for level in values["anchors"]),
        strides=tuple(float(stride) for stride in values["strides"]),
        image_size=_pair(values["image_size"]),
        batch_size=int(values["batch_size"]),
        max_targets=int(values["max_targets"]),
        loss=LossConfig(**values["loss"]),
        # Folders of 0.1 may lack these.
        tiers=tuple(int(slots) for slots in values.get("tiers", ())),
        head=_one_of(Head, values.get("head", "dense")),
        loss_layout=_one_of(Layout, values.get("loss_layout", "permuted")),
        provider=_one_of(LossProvider, values.get("provider", "any")),
        gradients=bool(values.get("gradients", False)),
        ema=bool(values.get("ema", False)),
        precision=precision,
        optimizer=optimizer,
        groups=ParameterGroupNames(
            **{group: tuple(map(str, names)) for group, names in values["groups"].items()}
        ),
        statistics=tuple(
            BatchNormStatistics(
                mean=str(entry["mean"]),
                var=str(entry["var"]),
                count=int(entry["count"]),
                momentum=float(entry["momentum"]),
            )
            for entry in values["statistics"]
        ),
        layout=dict(values["layout"]),
        opset=int(values["opset"]),
        versions=dict(values["versions"]),
        files={
            str(name): FileEntry(sha256=str(entry["sha256"]), size=int(entry["size"]))
            for name, entry in values["files"].items()
        },
    )
    _check_ranges(manifest)
    return manifest


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _check_ranges(manifest: Manifest) -> None:
    for name, sizes, most in (
        ("image_size", manifest.image_size, MAX_IMAGE_SIDE),
        ("batch_size", (manifest.batch_size,), MAX_ROWS),
        ("max_targets", (manifest.max_targets,), MAX_ROWS),
        ("names", (len(manifest.names),), MAX_CLASSES),
    ):
        if wrong := [size for size in sizes if not 1 <= size <= most]:
            raise ValueError(f"{name}: {wrong[0]}, expected 1 to {most}")
    if (bad := bad_name(manifest.names)) is not None:
        raise ValueError(f"name {bad} of a class is {excerpt(ascii(manifest.names[bad]))}")
    check_tiers(manifest.tiers, manifest.max_targets)
    anchors = (side for level in manifest.anchors for pair in level for side in pair)
    pixels = (*manifest.strides, *anchors)
    if not all(math.isfinite(size) and size > 0 for size in pixels):
        raise ValueError("an anchor or stride is no number of pixels")
    if not 1 <= len(manifest.strides) == len(manifest.anchors):
        raise ValueError(f"{len(manifest.strides)} strides, {len(manifest.anchors)} anchors")

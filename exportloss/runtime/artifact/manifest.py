"""`Manifest`: description of an artifacts folder, with the checksums of its files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from exportloss.class_names import bad_name
from exportloss.config import Criterion, LossConfig
from exportloss.errors import ArtifactError, excerpt
from exportloss.loss_kinds import (
    LOSS_KINDS,
    Layout,
    LossKind,
    LossSettings,
    from_tagged,
    tagged,
)
from exportloss.runtime.artifact.file_format import written_by_newer
from exportloss.runtime.artifact.flat_layout import StateLayout
from exportloss.runtime.artifact.kinds import KINDS, Kind
from exportloss.runtime.artifact.limits import (
    MAX_ARTIFACT_FILES,
    MAX_CLASSES,
    MAX_IMAGE_SIDE,
    MAX_ROWS,
)
from exportloss.runtime.artifact.listed_files import (
    STATE_NAME,
    FileEntry,
    describe_file,
    read_listed_files,
)
from exportloss.runtime.artifact.manifest_file import (
    MANIFEST_NAME,
    format_manifest,
    read_manifest_file,
)
from exportloss.runtime.artifact.manifest_values import flag, integer, number, text, texts
from exportloss.runtime.optimizers.table import OptimizerName
from exportloss.runtime.optimizers.trained_tensors import BatchNormStatistics, ParameterGroupNames

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
    "StepProvider",
    "check_tiers",
    "describe_file",
]

Precision = Literal["float32", "float16", "bfloat16"]
Head = Literal["dense", "sparse"]
LossProvider = Literal["any", "cpu", "gpu"]
StepProvider = Literal["any", "cpu", "openvino", "gpu"]

# Allowed values of the fields that hold one of several words.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "optimizer": get_args(OptimizerName),
    "precision": get_args(Precision),
    "head": get_args(Head),
    "loss_layout": get_args(Layout),
    "provider": get_args(StepProvider),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of an artifacts folder.

    Attributes:
        kind: Kind of artifact.
        model: Name of the detector, such as `yolov5n`; empty for a loss alone.
        names: Names of the nc classes, in class order.
        anchors: (nl, na, 2) anchor widths and heights in input pixels; empty for a loss without
            anchors.
        strides: (nl,) strides in input pixels per cell.
        image_size: Height and width of the images in pixels.
        batch_size: Images per batch.
        max_targets: Largest number of target rows per batch.
        tiers: Size buckets of a loss alone: smaller numbers of target rows with a graph each.
        loss: Options of the loss, of the class of its kind, see `loss_kind`.
        gradients: Whether the graphs of a loss alone compute gradients.
        loss_layout: Inputs of the graphs of a loss alone; see `export_loss`.
        provider: Target of the graphs: "any" runtime; ONNX Runtime's "cpu" provider, the only one
            that can run them; "openvino", the fastest with them, which others run as well; or a
            "gpu", whose writes have no order.
        optimizer: Optimizer that the artifact is made for; None for a loss alone.
        ema: Whether a moving average of the weights is kept.
        precision: Element type of the network in training; weights, statistics, loss and
            optimizer are float32.
        groups: Trainable parameters.
        statistics: BatchNorm layers whose statistics are trained.
        head: Cells in which training evaluates the detector's head: all ("dense"), or those that
            the loss uses ("sparse").
        layout: Layout of the portable step's flat state; None for other kinds.
        opset: Newest `ai.onnx` opset of the graphs.
        versions: Versions of the packages that wrote the folder.
        files: Files of the folder, by name, without the manifest.
    """

    kind: Kind
    model: str = ""
    names: tuple[str, ...]
    anchors: tuple[tuple[tuple[float, float], ...], ...] = ()
    strides: tuple[float, ...]
    image_size: tuple[int, int]
    batch_size: int
    max_targets: int
    tiers: tuple[int, ...] = ()
    loss: LossSettings = dataclasses.field(default_factory=LossConfig)
    gradients: bool = False
    loss_layout: Layout = "permuted"
    provider: StepProvider = "any"
    optimizer: OptimizerName | None = None
    ema: bool = False
    precision: Precision = "float32"
    groups: ParameterGroupNames = dataclasses.field(default_factory=ParameterGroupNames)
    statistics: tuple[BatchNormStatistics, ...] = ()
    head: Head = "dense"
    layout: StateLayout | None = None
    opset: int
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    files: Mapping[str, FileEntry] = dataclasses.field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    @property
    def loss_kind(self) -> LossKind:
        """Kind of the loss: names of its terms and of its state, shapes of its predictions."""
        return LOSS_KINDS[self.loss.kind]

    @property
    def loss_state(self) -> Mapping[str, tuple[float, ...]]:
        """State of the loss before the first step, by name."""
        return self.loss_kind.initial_state(len(self.strides))

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the tensors that a step changes: trainable parameters, then statistics."""
        statistics = (name for norm in self.statistics for name in (norm.mean, norm.var))
        return (*self.groups.all, *statistics)

    @property
    def averaged(self) -> tuple[str, ...]:
        """Names of the tensors that have a moving average: all trained ones, or none."""
        return self.trained if self.ema else ()

    @property
    def loss_graphs(self) -> dict[int, str]:
        """Files of a loss alone by number of target rows, ascending."""
        return {rows: f"loss-{rows}.onnx" for rows in self.tiers} | {self.max_targets: "loss.onnx"}

    def to_json(self) -> str:
        """Return the text of `manifest.json`, with its checksum."""
        values = dataclasses.asdict(self) | {"loss": tagged(self.loss)}
        values["layout"] = {} if self.layout is None else self.layout.to_values()
        return format_manifest(values, number=self.loss_kind.manifest_format)

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read and check a folder's manifest; its other files are not read.

        Args:
            folder: Artifacts folder.

        Raises:
            ArtifactError: the folder is not an artifact, is damaged, or was written by a later
                version that this one does not know.
        """
        path = Path(folder) / MANIFEST_NAME
        values, has_checksum = read_manifest_file(folder)
        try:
            if has_checksum:
                _refuse_newer(values, path)
            return _from_values(values)
        except ArtifactError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = excerpt(repr(error), 200)
            raise ArtifactError(f"{path} is damaged: {problem}; export again") from error

    def verify_files(self, folder: str | Path) -> None:
        """Compare every file's size and sha256 with the manifest; errors as for `read_files`."""
        for _ in read_listed_files(folder, self.files):
            pass

    def read_files(self, folder: str | Path) -> dict[str, bytes]:
        """Return the content of every file by name, after checking size and sha256.

        Raises:
            ArtifactError: a file is missing, is a link, or differs from the exported one.
        """
        return dict(read_listed_files(folder, self.files))


def check_tiers(
    tiers: Sequence[int], max_targets: int, *, error: type[Exception] = ValueError
) -> None:
    """Check the size buckets for which graphs are exported beside that of `max_targets`.

    Args:
        tiers: Numbers of target rows.
        max_targets: Number of target rows of the largest graph.
        error: Class of the error to raise.

    Raises:
        error: a number is below 1 or not below `max_targets`, they do not ascend, or there are
            more than a folder may hold.
    """
    steps = (0, *tiers, max_targets)
    if any(less >= more for less, more in pairwise(steps)) or len(tiers) >= MAX_ARTIFACT_FILES:
        raise error(
            f"tiers are {excerpt(tuple(tiers))}; expected fewer than {MAX_ARTIFACT_FILES}, "
            f"ascending, each at least 1 and below max_targets, {max_targets}"
        )


def _refuse_newer(values: dict[str, Any], path: Path) -> None:
    """Refuse unknown words and keys, in a manifest that matches its checksum."""
    found_kind, loss = from_tagged(values["loss"])
    if isinstance(found_kind, str) and found_kind not in LOSS_KINDS:
        found = f"loss kind {excerpt(repr(found_kind))}"
        raise written_by_newer(path, found, ", ".join(LOSS_KINDS), exported=True)
    settings = LOSS_KINDS[str(found_kind)].settings
    criteria = loss.get("criterion"), get_args(Criterion)
    words = {key: (values.get(key), known) for key, known in _WORDS.items()}
    for key, (said, known) in {**words, "criterion": criteria}.items():
        if isinstance(said, str) and said not in known:
            found = f"{key} {excerpt(repr(said))}"
            raise written_by_newer(path, found, ", ".join(known), exported=True)
    for key, given, cls in (
        ("loss", loss, settings),
        ("groups", values["groups"], ParameterGroupNames),
    ):
        fields = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(given.keys() - fields):
            found = f"{key} key {excerpt(repr(unknown[0]))}"
            raise written_by_newer(path, found, ", ".join(sorted(fields)), exported=True)


def _settings(values: dict[str, Any]) -> LossSettings:
    kind, own = from_tagged(values)
    settings: Callable[..., LossSettings] = LOSS_KINDS[str(kind)].settings
    return settings(**own)


def _word(values: dict[str, Any], key: str, default: str | None = None) -> Any:
    value = values[key] if default is None else values.get(key, default)
    if value not in _WORDS[key]:
        raise ValueError(f"{key} is {value!r}, expected one of {_WORDS[key]}")
    return value


def _from_values(values: dict[str, Any]) -> Manifest:
    manifest = Manifest(
        kind=_word(values, "kind"),
        model=text(values["model"], "model"),
        names=texts(values["names"], "names"),
        anchors=tuple(
            tuple((number(width, "anchors"), number(height, "anchors")) for width, height in level)
            for level in values.get("anchors", ())
        ),
        strides=tuple(number(stride, "strides") for stride in values["strides"]),
        image_size=_pair(values["image_size"]),
        batch_size=integer(values["batch_size"], "batch_size"),
        max_targets=integer(values["max_targets"], "max_targets"),
        loss=_settings(values["loss"]),
        # Manifests of 0.1 may lack the next keys.
        tiers=tuple(integer(rows, "tiers") for rows in values.get("tiers", ())),
        head=_word(values, "head", "dense"),
        loss_layout=_word(values, "loss_layout", "permuted"),
        provider=_word(values, "provider", "any"),
        gradients=flag(values.get("gradients", False), "gradients"),
        ema=flag(values.get("ema", False), "ema"),
        precision=_word(values, "precision", "float32"),
        optimizer=None if values["optimizer"] is None else _word(values, "optimizer"),
        groups=ParameterGroupNames(
            **{group: texts(names, "groups") for group, names in values["groups"].items()}
        ),
        statistics=tuple(
            BatchNormStatistics(
                mean=text(entry["mean"], "mean"),
                var=text(entry["var"], "var"),
                count=integer(entry["count"], "count"),
                momentum=number(entry["momentum"], "momentum"),
            )
            for entry in values["statistics"]
        ),
        layout=StateLayout.from_values(values["layout"]) if values["layout"] else None,
        opset=integer(values["opset"], "opset"),
        versions=dict(values["versions"]),
        files={
            name: FileEntry(
                sha256=text(entry["sha256"], "sha256"), size=integer(entry["size"], "size")
            )
            for name, entry in values["files"].items()
        },
    )
    _check_ranges(manifest)
    return manifest


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return integer(first, "image_size"), integer(second, "image_size")


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
        raise ValueError(f"the name of class {bad} is {excerpt(repr(manifest.names[bad]))}")
    check_tiers(manifest.tiers, manifest.max_targets)
    anchors = (side for level in manifest.anchors for pair in level for side in pair)
    pixels = (*manifest.strides, *anchors)
    if not all(math.isfinite(size) and size > 0 for size in pixels):
        raise ValueError("an anchor or stride is not a finite number of pixels above 0")
    levels = len(manifest.strides)
    if levels < 1 or len(manifest.anchors) != levels * manifest.loss_kind.has_anchors:
        raise ValueError(f"{levels} strides for anchors of {len(manifest.anchors)} levels")

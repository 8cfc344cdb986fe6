"""Options of `exportloss train`: their defaults, and those of a run to resume."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from exportloss.cli.arguments import HeadChoice
from exportloss.cli.defaults import default_of
from exportloss.cli.run_paths import RUN_NAME
from exportloss.cli.train.moved_artifacts import artifacts_to_resume
from exportloss.distributed.communicator import Distributed
from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.runtime.artifact.manifest import OptimizerName, Precision
from exportloss.runtime.data.capacity import Overflow
from exportloss.runtime.data.loader import Batches, Cache
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.hyp import every_key
from exportloss.runtime.training.run_folder import RunFolder, read_yaml, write_yaml
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.trainer import train

__all__ = ["CHANGED_ON_RESUME", "TrainOptions", "fill_options", "write_options"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of a run, as `opt.yaml` records them; one field per flag, and `drop_last`.

    Options of an export are None where the artifacts, or `ExportSettings`, decide.
    """

    data: str
    weights: str
    artifacts: str | None = None
    hyp: str | None = None
    epochs: int = 100
    patience: int = 100
    max_skipped: int = default_of(train, "max_skipped")
    cos_lr: bool = default_of(Schedule, "cosine")
    nominal_batch: int = default_of(Schedule, "nominal_batch")
    overflow: Overflow = default_of(train, "overflow")  # noqa: RUF009 - a string
    skip_bad: bool = False
    project: str = "runs/train"
    name: str = RUN_NAME
    exist_ok: bool = False
    seed: int = default_of(Batches, "seed")
    device: str = default_of(open_session, "device")
    self_check: bool = default_of(open_session, "self_check")
    threads: int | None = None
    distributed: Distributed | None = None
    workers: int = default_of(Batches, "workers")
    cache: Cache | Literal["features"] = default_of(Batches, "cache")  # noqa: RUF009 - a string
    noval: bool = False
    nosave: bool = False
    save_period: int = -1
    noplots: bool = False
    single_cls: bool = False
    image_weights: bool = default_of(Batches, "image_weights")
    model: str | None = None
    imgsz: list[int] | None = None
    batch_size: int | None = None
    max_targets: int | None = None
    optimizer: OptimizerName | None = None
    freeze: list[int] | None = None
    update: str | None = None
    precision: Precision | None = None
    memory: float | None = None
    head: HeadChoice | None = None
    anchors: str | None = None
    label_smoothing: float | None = None
    noautoanchor: bool = False
    scale_gains: bool = True
    ema: bool = True
    format: str = "step"
    drop_last: bool = default_of(Batches, "drop_last")  # no flag


# Defaults of options that are not given. On the command line all are None, so that a resumed run
# can tell which were given.
_DEFAULTS: dict[str, Any] = {
    field.name: None if field.default is dataclasses.MISSING else field.default
    for field in dataclasses.fields(TrainOptions)
}
# Behaviour of earlier versions, whose `opt.yaml` does not have these keys.
_EARLIER = {"drop_last": True}
_PATHS = ("data", "hyp", "weights", "artifacts", "anchors", "update")
# A finished run can go on for more epochs, and data can have been moved.
CHANGED_ON_RESUME = ("epochs", "patience", "data")
_FREE_ON_RESUME = (
    *("device", "self_check", "threads", "distributed", "workers", "cache"),
    *("project", "noplots"),
    *CHANGED_ON_RESUME,
)


def fill_options(options: argparse.Namespace, resumed: RunFolder | None) -> TrainOptions:
    """Fill in options that were not given, from the run to resume or the defaults.

    Raises:
        ConfigError: An option contradicts the run to resume, or there are no weights or no data.
        ArtifactError: There is no such run, or its options are damaged.
    """
    said = {
        name: value for name in _DEFAULTS if (value := getattr(options, name, None)) is not None
    }
    for name in _PATHS:
        if name in said and Path(said[name]).exists():
            said[name] = str(Path(said[name]).resolve())
    if resumed is None:
        return _complete({**_DEFAULTS, **said})
    saved = _saved_options(resumed)
    artifacts = said.pop("artifacts", None)
    for name, value in said.items():
        if name not in _FREE_ON_RESUME and value != saved[name]:
            raise ConfigError(
                f"--{name.replace('_', '-')} {value} is not what the run was started with "
                f"({saved[name]}); leave it out, or start a new run"
            )
    if (epochs := said.get("epochs", saved["epochs"])) < saved["epochs"]:
        raise ConfigError(
            f"--epochs {epochs} is less than the run has ({saved['epochs']}); give more, to train "
            "further"
        )
    saved["hyp"] = str(resumed.hyp)
    saved["distributed"] = None  # whatever it was: it changes no bit
    # The artifacts have these built in.
    saved["model"] = saved["freeze"] = saved["update"] = saved["memory"] = saved["anchors"] = None
    saved["weights"] = str(artifacts_to_resume(resumed, saved["weights"], artifacts))
    return _complete({**saved, **said, "weights": saved["weights"]})


def _complete(values: Mapping[str, Any]) -> TrainOptions:
    if values["data"] is None or values["weights"] is None:
        raise ConfigError("train needs --weights and --data (or --resume with a run's folder)")
    return TrainOptions(**values)


def _saved_options(resumed: RunFolder) -> dict[str, Any]:
    resumed.check()
    values = read_yaml(resumed.options)
    saved = {name: values.get(name, default) for name, default in {**_DEFAULTS, **_EARLIER}.items()}
    hints = get_type_hints(TrainOptions)
    for name, value in saved.items():
        kind = _kind(hints[name])
        is_right = type(value) is kind
        if isinstance(value, list):
            is_right = is_right and bool(value) and all(type(number) is int for number in value)
        if _DEFAULTS[name] != value and not is_right:
            raise ArtifactError(
                f"{resumed.options} is damaged: {name} is {excerpt(repr(value))}; expected "
                f"{'whole numbers' if kind is list else kind.__name__}"
            )
    return saved


def _kind(hint: Any) -> type:
    """Return the class of a field's values other than None."""
    (kind, *_) = [each for each in get_args(hint) if each is not NoneType] or [hint]
    if get_origin(hint) is Literal or get_origin(kind) is Literal:
        return str
    found: type = get_origin(kind) or kind
    return found


def write_options(
    folder: RunFolder,
    options: TrainOptions,
    session: TrainSession,
    schedule: Schedule,
    hyp: Mapping[str, Any],
) -> None:
    """Write `opt.yaml` and `hyp.yaml`, from which the run can be resumed.

    The gains in `hyp.yaml` are those before scaling, so that the file can be passed to `--hyp`; it
    has every key of YOLOv5's files, so that YOLOv5 can read it, too.
    """
    manifest = session.manifest
    fixed = {
        "weights": str(session.folder.resolve()),
        "imgsz": list(manifest.image_size),
        "batch_size": manifest.batch_size,
        "max_targets": manifest.max_targets,
        "optimizer": manifest.optimizer,
        "artifacts": None,  # they are `weights` now
    }
    loss = manifest.loss
    if options.scale_gains:
        loss = loss.unscaled(
            levels=len(manifest.strides),
            num_classes=manifest.num_classes,
            image_size=manifest.image_size,
        )
    write_yaml(folder.hyp, every_key(schedule.config, loss, hyp))
    # The options come last: a run that has them can be resumed.
    write_yaml(folder.options, {**dataclasses.asdict(options), **fixed})

"""Options of `exportloss train`: what was said, the defaults, and those of a run to resume."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from exportloss.cli.arguments import add_export_arguments
from exportloss.cli.device_options import add_device_arguments
from exportloss.cli.train.moved_artifacts import artifacts_to_resume
from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.runtime.artifact.kinds import KINDS
from exportloss.runtime.data.capacity import Overflow
from exportloss.runtime.data.loader import Cache
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.hyp import every_key
from exportloss.runtime.training.run_folder import RunFolder, read_yaml, write_yaml
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.skipped import MAX_SKIPPED

__all__ = ["CHANGED_ON_RESUME", "add_train_arguments", "fill_options", "write_options"]

# What is not said on the command line. There everything is None, so that a resumed run can tell
# what was said.
_DEFAULTS: dict[str, Any] = {
    "data": None,
    "weights": None,
    "artifacts": None,
    "hyp": None,
    "epochs": 100,
    "patience": 100,
    "max_skipped": MAX_SKIPPED,
    "cos_lr": False,
    "nominal_batch": 64,
    "overflow": "auto",
    "skip_bad": False,
    "project": "runs/train",
    "name": "exp",
    "exist_ok": False,
    "seed": 0,
    "device": "cpu",
    "self_check": True,
    "threads": None,
    "workers": 2,
    "cache": "none",
    "noval": False,
    "nosave": False,
    "save_period": -1,
    "noplots": False,
    "single_cls": False,
    "image_weights": False,
    **dict.fromkeys(
        ("model", "imgsz", "batch_size", "max_targets", "optimizer", "freeze", "precision", "head")
    ),
    "anchors": None,
    "label_smoothing": None,
    "noautoanchor": False,
    "scale_gains": True,
    "ema": True,
    "format": "step",
    "drop_last": False,  # no flag
}
# What runs of earlier versions did, whose `opt.yaml` does not have these keys.
_EARLIER = {"drop_last": True}
_PATHS = ("data", "hyp", "weights", "artifacts", "anchors")
# A finished run can go on for more epochs, and data can have been moved.
CHANGED_ON_RESUME = ("epochs", "patience", "data")
_FREE_ON_RESUME = (
    *("device", "self_check", "threads", "workers", "cache", "project", "noplots"),
    *CHANGED_ON_RESUME,
)

# Types of options whose default is another, or none.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("data", "weights", "artifacts", "hyp", "anchors"), str),
    **dict.fromkeys(("model", "optimizer", "precision", "head"), str),
    "label_smoothing": float,
    **dict.fromkeys(("batch_size", "max_targets", "threads"), int),
    **dict.fromkeys(("imgsz", "freeze"), list),
}


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; all default to None, for "not said"."""
    _add_sources(parser.add_argument_group("what to train, and on what"))
    _add_schedule(parser.add_argument_group("how long, and at what rates"))
    _add_outputs(parser.add_argument_group("what is written, and where"))
    _add_machine(parser.add_argument_group("the machine"))
    fixed = parser.add_argument_group("fixed when artifacts are exported (for a size or file)")
    fixed.add_argument(
        "--format",
        choices=tuple(kind.format for kind in KINDS.values() if kind.trains),
        help="the portable step, or ONNX Runtime training artifacts (default step)",
    )
    add_export_arguments(fixed)


def _add_flag(group: argparse._ArgumentGroup, name: str, about: str) -> None:
    group.add_argument(name, action="store_const", const=True, help=about)


def _add_sources(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--weights",
        metavar="FOLDER|NAME|FILE",
        help="an artifacts folder; or a run, whose best weights are then trained further with its "
        "artifacts; or a size or file as for `exportloss export`, which is then exported first and "
        "needs torch",
    )
    add(
        "--artifacts",
        metavar="FOLDER",
        help="artifacts to train the weights of a run with, where its own are gone; with --resume "
        "the folder that they were moved to",
    )
    add("--data", metavar="YAML", help="data set, YOLOv5's data.yaml")
    add("--hyp", metavar="YAML", help="YOLOv5 hyperparameters (default: its hyp.scratch-low)")
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="continue a run's folder, with the options that it has (without RUN: the last one of "
        "--project); a finished one with more --epochs, one whose data was moved with --data",
    )
    add(
        "--overflow",
        choices=get_args(Overflow),
        help="a batch with more boxes than --max-targets is refused, or loses its smallest boxes "
        "(default auto: mosaics lose them, counted; all others are refused)",
    )
    _add_flag(
        group,
        "--skip-bad",
        "leave out images that are damaged or have bad labels, instead of refusing",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", type=int, metavar="N", help="default 100")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop after so many epochs without a better one (default 100; 0 never stops)",
    )
    add(
        "--max-skipped",
        type=int,
        metavar="N",
        help="give up after so many batches in a row, or a whole epoch, whose loss or gradients "
        f"are not finite; such a batch changes nothing (default {MAX_SKIPPED})",
    )
    _add_flag(group, "--cos-lr", "the learning rate falls along a cosine, not a line")
    add(
        "--nominal-batch",
        type=int,
        metavar="N",
        help="gradients are added up over about so many images (default 64, as in YOLOv5)",
    )
    add("--seed", type=int, metavar="N", help="of all that is random (default 0)")
    _add_flag(
        group,
        "--image-weights",
        "draw the images of an epoch with replacement, those of rare and badly detected classes "
        "more often",
    )
    _add_flag(group, "--noval", "validate at the start and after the last epoch only")


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--project", metavar="FOLDER", help="folder of the runs (default runs/train)")
    add("--name", metavar="NAME", help="of the run: exp, then exp2, exp3, ... (default exp)")
    _add_flag(group, "--exist-ok", "use project/name even if it exists; its results are replaced")
    _add_flag(
        group,
        "--nosave",
        "write weights at the end only: spares a flash disk, and an interrupted run is lost",
    )
    add(
        "--save-period",
        type=int,
        metavar="N",
        help="keep weights/epochN.safetensors of every so manyth epoch (default -1: none)",
    )
    _add_flag(group, "--noplots", "draw no images and plots")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_device_arguments(group, unsaid=True)
    add("--threads", type=int, metavar="N", help="of the engine (default: every core)")
    add("--workers", type=int, metavar="N", help="threads that decode images (default 2)")
    add(
        "--cache",
        nargs="?",
        const="ram",
        choices=get_args(Cache),
        help="keep decoded images in memory (ram, which --cache alone means), or as files in the "
        "user's cache folder (disk)",
    )


def fill_options(options: argparse.Namespace, resumed: RunFolder | None) -> argparse.Namespace:
    """Fill in what was not said: from the run to resume, or the defaults.

    Raises:
        ConfigError: an option contradicts the run to resume.
        ArtifactError: there is no such run, or its options are damaged.
    """
    said = {
        name: value for name in _DEFAULTS if (value := getattr(options, name, None)) is not None
    }
    for name in _PATHS:
        if name in said and Path(said[name]).exists():
            said[name] = str(Path(said[name]).resolve())
    if resumed is None:
        return argparse.Namespace(**{**_DEFAULTS, **said})
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
    # These are in the artifacts by now.
    saved["model"] = saved["freeze"] = saved["anchors"] = None
    saved["weights"] = str(artifacts_to_resume(resumed, saved["weights"], artifacts))
    return argparse.Namespace(**{**saved, **said, "weights": saved["weights"]})


def _saved_options(resumed: RunFolder) -> dict[str, Any]:
    resumed.check()
    values = read_yaml(resumed.options)
    saved = {name: values.get(name, default) for name, default in {**_DEFAULTS, **_EARLIER}.items()}
    for name, value in saved.items():
        kind = _KINDS.get(name) or type(_DEFAULTS[name])
        is_right = type(value) is kind
        if isinstance(value, list):
            is_right = is_right and bool(value) and all(type(number) is int for number in value)
        if _DEFAULTS[name] != value and not is_right:
            raise ArtifactError(
                f"{resumed.options} is damaged: {name} is {excerpt(repr(value))}; expected "
                f"{'whole numbers' if kind is list else kind.__name__}"
            )
    return saved


def write_options(
    folder: RunFolder,
    options: argparse.Namespace,
    session: TrainSession,
    schedule: Schedule,
    hyp: Mapping[str, Any],
) -> None:
    """Write `opt.yaml` and `hyp.yaml`, from which the run can be resumed.

    The gains in `hyp.yaml` are those before scaling, so that the file can be used as it is; and it
    has every key of YOLOv5's files, so that YOLOv5 can use it too.
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
    # The options come last: where they are, the run can be resumed.
    write_yaml(folder.options, {**vars(options), **fixed})

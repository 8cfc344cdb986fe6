"""Arguments shared by several commands, under YOLOv5's names."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from exportloss.bounds import at_least
from exportloss.cli.defaults import default_of
from exportloss.cli.terminal import say
from exportloss.cli.update_choice import update_choice
from exportloss.config import LossConfig
from exportloss.errors import ConfigError
from exportloss.loss_kinds import LossSettings
from exportloss.runtime.artifact.manifest import (
    Layout,
    OptimizerName,
    Precision,
    StepProvider,
    check_tiers,
)
from exportloss.runtime.data.anchors import Anchors, read_anchors

if TYPE_CHECKING:
    from exportloss.cli.train.options import TrainOptions

__all__ = ["ExportSettings", "HeadChoice", "add_export_arguments", "image_size", "smooth_labels"]

HeadChoice = Literal["auto", "dense", "sparse"]

_MOST_MEGABYTES = 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Settings of an export.

    Attributes:
        weights: Size of the detector, such as `yolov5n`, or a file of weights.
        model: Size that a file of weights must have, or a function that makes the detector,
            `package.module:function`; None accepts any size.
        names: Class names; None for numbers.
        num_classes: Number of classes; None takes the file's.
        loss: Settings of the loss.
        image_size: Height and width, pixels.
        batch_size: Images per batch.
        max_targets: Capacity of a batch in target rows.
        tiers: Size buckets of a loss alone, in target rows below `max_targets`; None chooses.
        optimizer: Optimizer whose state a session keeps.
        freeze: Number of frozen layers, or several layer indices.
        update: Parameters to train of the other layers: a name, or patterns of parameter names.
        gradients: Whether a loss alone outputs gradients, too.
        layout: Input of a loss alone; None for the default of its kind.
        provider: Engine that the portable step or the loss alone is optimized for.
        seed: Seed of random weights.
        scale_gains: Whether to scale the loss's gains to model and image size, as YOLOv5 does.
        ema: Whether to keep a moving average of weights and statistics.
        precision: Precision of the network in a portable step.
        memory: Megabytes of activations that a portable step may keep; None for all of them.
        features: Whether a portable step has its frozen layers as a graph of their own, too.
        head: Where to evaluate the head in training.
        anchors: (nl, na, 2) anchors in pixels that replace the detector's; None keeps those.
        autoanchor: Whether to fit anchors to the training images if the detector's fit too few
            boxes.

    Raises:
        ConfigError: A size or number is below 1, or the buckets are not ascending numbers below
            `max_targets`.
    """

    weights: str
    model: str | None = None
    names: tuple[str, ...] | None = None
    num_classes: int | None = None
    loss: LossSettings = dataclasses.field(default_factory=LossConfig)
    image_size: tuple[int, int] = (320, 320)
    batch_size: int = 4
    max_targets: int = 64
    tiers: tuple[int, ...] | None = None
    optimizer: OptimizerName = "sgd"
    freeze: tuple[int, ...] = (0,)
    update: str | tuple[str, ...] = "all"
    gradients: bool = False
    layout: Layout | None = None
    provider: StepProvider = "any"
    seed: int = 0
    scale_gains: bool = True
    ema: bool = False
    precision: Precision = "float32"
    memory: float | None = None
    features: bool = False
    head: HeadChoice = "auto"
    anchors: Anchors | None = None
    autoanchor: bool = True

    def __post_init__(self) -> None:
        if self.batch_size == -1:
            raise ConfigError(
                "--batch-size -1: not here; no batch size is tried out: give the one of the graph"
            )
        if self.memory is not None and not 0 < self.memory <= _MOST_MEGABYTES:
            raise ConfigError(
                f"--memory {self.memory:g}; expected megabytes above 0, {_MOST_MEGABYTES:g} at most"
            )
        at_least(1, **{"image size": min(self.image_size)})
        at_least(1, **{"batch size": self.batch_size, "max targets": self.max_targets})
        check_tiers(self.tiers or (), self.max_targets, error=ConfigError)

    @classmethod
    def from_options(
        cls, options: argparse.Namespace | TrainOptions, **more: Any
    ) -> ExportSettings:
        """Take each field from the option of its name; options that are None keep the default.

        Args:
            options: Options of `exportloss export` or `exportloss train`.
            more: Fields that no option sets.

        Raises:
            ConfigError: `--imgsz` has more than two numbers, or `--anchors` or `--update` names a
                file that is none of theirs.
        """
        given = {
            field.name: getattr(options, field.name, None) for field in dataclasses.fields(cls)
        }
        given |= {
            "image_size": image_size(options.imgsz, stride=_stride(options.weights)),
            "freeze": None if options.freeze is None else tuple(options.freeze),
            "update": None if options.update is None else update_choice(options.update),
            "anchors": None if options.anchors is None else read_anchors(options.anchors),
            "autoanchor": not options.noautoanchor,
        }
        said = {name: value for name, value in given.items() if value is not None}
        return cls(**{**said, **more})


def add_export_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add the options that an export fixes; None means "not given"."""
    default = functools.partial(default_of, ExportSettings)
    side, _ = default("image_size")
    (freeze,) = default("freeze")
    parser.add_argument(
        "--model",
        metavar="SIZE|FUNCTION",
        help="size, such as yolov5n, that a file of --weights must have; or, for `exportloss "
        "export`, a detector of your own: package.module:function, which is imported and called",
    )
    parser.add_argument(
        *("--imgsz", "--img", "--img-size"),
        type=int,
        nargs="+",
        metavar="N",
        help="height and width of the images in pixels, one number for both: multiples of 32, "
        f"of 64 for the P6 sizes (default {side})",
    )
    parser.add_argument(
        *("--batch-size", "--batch"),
        type=int,
        metavar="N",
        help=f"images per batch, fixed in the graph (default {default('batch_size')})",
    )
    parser.add_argument(
        "--max-targets",
        type=int,
        metavar="N",
        help=f"capacity of a batch in boxes, fixed in the graph (default {default('max_targets')})",
    )
    parser.add_argument(
        "--scale-gains",
        action=argparse.BooleanOptionalAction,
        help="scale the gains box, cls and obj to the model's levels and classes and to the "
        "image size, as YOLOv5's train.py does (default), or use them as written",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="keep a moving average of weights and statistics, as YOLOv5 does, which is then what "
        "is validated, kept as best and exported (default for train, not for export)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="precision of the network in a portable step on a GPU, forward and backward; "
        "weights, BatchNorm, loss and optimizer are float32 "
        f"(default {default('precision')})",
    )
    parser.add_argument(
        "--memory",
        type=float,
        metavar="MB",
        help="activations that a portable step may keep from the forward for the backward pass; "
        "what is beyond, and cheap, is computed again (default: as few as possible on a CPU)",
    )
    parser.add_argument(
        "--head",
        choices=get_args(HeadChoice),
        help="evaluate the detection layer in training everywhere (dense) or where the loss looks "
        "(sparse); the numbers are the same "
        f"(default {default('head')}: the faster for these sizes)",
    )
    parser.add_argument(
        "--single-cls",
        action="store_const",
        const=True,
        help="treat all classes of the data set as one, called item",
    )
    parser.add_argument(
        "--label-smoothing",
        type=float,
        metavar="X",
        help="epsilon of the class targets, in place of that of --hyp "
        f"(default {default_of(LossConfig, 'label_smoothing'):g})",
    )
    parser.add_argument(
        "--anchors",
        metavar="YAML",
        help="anchors to use: a file with `anchors:` and a row of widths and heights for each "
        "level, as YOLOv5's model files have them",
    )
    parser.add_argument(
        "--noautoanchor",
        action="store_const",
        const=True,
        help="keep the detector's anchors, even where too few boxes of the training images fit one",
    )
    parser.add_argument(
        "--optimizer",
        type=str.lower,
        choices=get_args(OptimizerName),
        help=f"default {default('optimizer')}",
    )
    parser.add_argument(
        "--freeze",
        type=int,
        nargs="+",
        metavar="N",
        help="layers not to train: 10 means the first ten, the backbone; several numbers are "
        f"layer indices (default {freeze}: none)",
    )
    parser.add_argument(
        "--update",
        metavar="WHAT|FILE",
        help="parameters to train of the layers that are not frozen: bias, all biases; norm, these "
        "and the scales of BatchNorm; last-K, the last K layers; or a file with a pattern of "
        f"parameter names per line, such as model.24.* (default {default('update')})",
    )


def smooth_labels(
    hyp: Mapping[str, Any], epsilon: float | None, *, loss: type[LossSettings]
) -> dict[str, Any]:
    """Return hyperparameters with the value of `--label-smoothing`; None keeps theirs.

    Raises:
        ConfigError: a value is given, and the settings of the loss have none.
    """
    if epsilon is None:
        return dict(hyp)
    if "label_smoothing" not in loss.__dataclass_fields__:
        raise ConfigError(
            f"--label-smoothing {epsilon:g}: the loss {loss.kind} does not smooth class targets, "
            f"as {LossConfig.kind} does; leave it out"
        )
    return {**hyp, "label_smoothing": epsilon}


def image_size(
    values: Sequence[int] | None, *, stride: int | None = None
) -> tuple[int, int] | None:
    """Turn the numbers of `--imgsz` into height and width.

    Args:
        values: Numbers as parsed; None if the option was not given.
        stride: Number whose multiples the sides are rounded up to with a note, as in YOLOv5; None
            leaves them.

    Raises:
        ConfigError: There are more than two numbers, or one is below 1.
    """
    if values is None:
        return None
    if len(values) > 2:
        raise ConfigError(f"--imgsz got {len(values)} numbers; expected one, or height and width")
    at_least(1, **{"--imgsz": min(values)})
    size = values[0], values[-1]
    if stride is None:
        return size
    rounded = -(-size[0] // stride) * stride, -(-size[1] // stride) * stride
    if rounded != size:
        say(f"note: --imgsz {size} is rounded up to {rounded}, multiples of the stride {stride}")
    return rounded


def _stride(weights: str) -> int:
    """Return the largest stride of a detector, judged by the name of its weights."""
    name = Path(weights).stem.removesuffix("-v5")  # as in yolov5s6-v5.0
    return 64 if name.endswith("6") else 32

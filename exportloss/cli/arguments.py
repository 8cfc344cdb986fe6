"""Arguments that several commands share, under YOLOv5's names."""

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
from exportloss.config import LossConfig
from exportloss.errors import ConfigError
from exportloss.runtime.artifact.manifest import (
    Layout,
    LossProvider,
    OptimizerName,
    Precision,
    check_tiers,
)
from exportloss.runtime.data.anchors import Anchors, read_anchors

if TYPE_CHECKING:
    from exportloss.cli.train.options import TrainOptions

__all__ = ["ExportSettings", "HeadChoice", "add_export_arguments", "image_size", "smooth_labels"]

HeadChoice = Literal["auto", "dense", "sparse"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What to export.

    Attributes:
        weights: size of the detector, such as `yolov5n`, or a file of weights.
        model: size that a file of weights must be of; None takes any.
        names: class names; None for numbers.
        num_classes: number of classes; None takes the file's.
        loss: options of the loss.
        image_size: height and width, pixels.
        batch_size: images in a batch.
        max_targets: target rows in a batch.
        tiers: of a loss alone, smaller numbers of target rows with a graph each; None chooses.
        optimizer: which memory a session keeps.
        freeze: number of layers, or several layer indices.
        gradients: whether a loss alone gives gradients too.
        layout: what a loss alone starts from.
        provider: what the portable step or the loss alone is to run on.
        seed: of random weights.
        scale_gains: scale the loss's gains to the model and image size, as YOLOv5 does.
        ema: keep a moving average of weights and statistics.
        precision: what the network of a portable step computes in.
        head: where to evaluate the head in training.
        anchors: (nl, na, 2) in pixels, to use instead of the detector's; None keeps those.
        autoanchor: fit anchors to the training images where the detector's fit too few boxes.

    Raises:
        ConfigError: a size or number is below 1, or the tiers are not ascending numbers below
            `max_targets`.
    """

    weights: str
    model: str | None = None
    names: tuple[str, ...] | None = None
    num_classes: int | None = None
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    image_size: tuple[int, int] = (320, 320)
    batch_size: int = 4
    max_targets: int = 64
    tiers: tuple[int, ...] | None = None
    optimizer: OptimizerName = "sgd"
    freeze: tuple[int, ...] = (0,)
    gradients: bool = False
    layout: Layout = "permuted"
    provider: LossProvider = "any"
    seed: int = 0
    scale_gains: bool = True
    ema: bool = False
    precision: Precision = "float32"
    head: HeadChoice = "auto"
    anchors: Anchors | None = None
    autoanchor: bool = True

    def __post_init__(self) -> None:
        if self.batch_size == -1:
            raise ConfigError(
                "--batch-size -1: not here; no batch size is tried out: give the one of the graph"
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
            ConfigError: `--imgsz` has more than two numbers, or `--anchors` names no anchors.
        """
        given = {
            field.name: getattr(options, field.name, None) for field in dataclasses.fields(cls)
        }
        given |= {
            "image_size": image_size(options.imgsz, stride=_stride(options.weights)),
            "freeze": None if options.freeze is None else tuple(options.freeze),
            "anchors": None if options.anchors is None else read_anchors(options.anchors),
            "autoanchor": not options.noautoanchor,
        }
        said = {name: value for name, value in given.items() if value is not None}
        return cls(**{**said, **more})


def add_export_arguments(parser: argparse._ArgumentGroup) -> None:
    """Add what an export is fixed to; all default to None, for "not said"."""
    default = functools.partial(default_of, ExportSettings)
    side, _ = default("image_size")
    (freeze,) = default("freeze")
    parser.add_argument(
        "--model",
        metavar="SIZE",
        help="refuse a file of --weights that is of another size than, say, yolov5n",
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
        help=f"images in a batch, fixed in the graph (default {default('batch_size')})",
    )
    parser.add_argument(
        "--max-targets",
        type=int,
        metavar="N",
        help="boxes that a whole batch can have, fixed in the graph "
        f"(default {default('max_targets')})",
    )
    parser.add_argument(
        "--scale-gains",
        action=argparse.BooleanOptionalAction,
        help="scale the gains box, cls and obj to the model's levels and classes and to the "
        "image size, as YOLOv5's train.py does (default), or take them as they are written",
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="keep a moving average of weights and statistics, as YOLOv5 does, which is then what "
        "is validated, kept as best and exported (default for train; not for export)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="of the portable step on a GPU: what the network computes in, forward and backward; "
        "weights, BatchNorm, loss and optimizer are float32 "
        f"(default {default('precision')})",
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
        help="keep layers as they are: 10 is the first ten, the backbone; several numbers are "
        f"layer indices (default {freeze}: none)",
    )


def smooth_labels(hyp: Mapping[str, Any], epsilon: float | None) -> dict[str, Any]:
    """Return hyperparameters with the value of `--label-smoothing`; None keeps theirs."""
    return dict(hyp) if epsilon is None else {**hyp, "label_smoothing": epsilon}


def image_size(
    values: Sequence[int] | None, *, stride: int | None = None
) -> tuple[int, int] | None:
    """Turn the numbers of `--imgsz` into height and width.

    Args:
        values: as parsed; None where nothing was said.
        stride: as in YOLOv5 the sides are rounded up to multiples of it, with a word.

    Raises:
        ConfigError: there are more than two, or one is below 1.
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
    """Return the largest stride of what `--weights` names, as far as the name says it."""
    name = Path(weights).stem.removesuffix("-v5")  # of v5.0
    return 64 if name.endswith("6") else 32

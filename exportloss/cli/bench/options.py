"""Options of `exportloss bench`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import get_args

from exportloss.bench import AXES, LOSS_BENCHES, Bench, Goal, Scenario, Setting
from exportloss.bench.scenario import Arithmetic
from exportloss.cli.arguments import image_size
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError
from exportloss.runtime.artifact.manifest import Layout

__all__ = [
    "add_growth_arguments",
    "add_measuring_arguments",
    "add_output_arguments",
    "add_size_arguments",
    "make_setting",
]

_NUMBERS = (
    (("--nc", "--num-classes"), "num_classes", "classes"),
    (("--batch-size", "--batch"), "batch_size", "images per batch"),
    (("--max-targets",), "max_targets", "capacity of a batch in boxes"),
)


def add_size_arguments(parser: argparse.ArgumentParser, benches: Sequence[Bench]) -> None:
    """Add the fields of a `Scenario`; None means "not given"."""
    group = parser.add_argument_group("sizes")
    usual = [Scenario(**bench.defaults) for bench in benches]

    def default(name: str) -> str:
        values = dict.fromkeys(str(getattr(scenario, name)).strip("()") for scenario in usual)
        return f"(default {' or '.join(values)})" if len(values) == 1 else "(default: as there)"

    group.add_argument(
        *("--weights", "--model"),
        dest="model",
        metavar="SIZE",
        help=f"detector, with random weights {default('model')}",
    )
    for names, field, about in _NUMBERS:
        group.add_argument(
            *names, dest=field, type=int, metavar="N", help=f"{about} {default(field)}"
        )
    group.add_argument(
        "--targets",
        type=int,
        metavar="N",
        help=f"boxes in the batch {default('targets')[:-1]}, or --max-targets if that is less)",
    )
    group.add_argument(
        *("--imgsz", "--img", "--img-size"),
        type=int,
        nargs="+",
        metavar="N",
        help=f"height and width in pixels, one number for both {default('image_size')}",
    )
    group.add_argument(
        "--device",
        metavar="NAME",
        help="cpu, cuda, or tensorrt for ONNX Runtime and cuda for torch; cuda:1 "
        + default("device"),
    )
    if any(bench.name == "loss" for bench in benches):
        group.add_argument(
            "--loss",
            choices=tuple(LOSS_BENCHES),
            help="kind of the loss: yolov5 (default), or task-aligned, whose implementations are "
            + ", ".join(one.name for one in LOSS_BENCHES["task-aligned"].implementations),
        )
        group.add_argument(
            "--layout",
            choices=get_args(Layout),
            help="input of the loss: maps (B, na, H, W, 5 + nc); the output of the head's "
            "convolution, (B, na * (5 + nc), H, W), of which eager torch makes those maps; or its "
            "input, (B, C, H, W), so that the head is measured with the loss " + default("layout"),
        )
    if any(bench.name != "loss" for bench in benches):
        group.add_argument(
            "--freeze",
            type=int,
            nargs="+",
            metavar="N",
            help="layers not to train, as in `exportloss export` "
            f"{default('freeze').rstrip(',)')}: none)",
        )
        group.add_argument(
            "--precision",
            choices=get_args(Arithmetic),
            help=f"precision of the network on a GPU {default('precision')}",
        )
    group.add_argument(
        "--seed", type=int, metavar="N", help=f"of weights and batch {default('seed')}"
    )


def add_measuring_arguments(
    parser: argparse.ArgumentParser, *, rounds: int | None, steps: int
) -> None:
    """Add who is measured and how.

    Args:
        parser: Parser of a benchmark.
        rounds: Default number of rounds; None for a benchmark without rounds.
        steps: Default number of measured steps.
    """
    add = parser.add_argument_group("measuring").add_argument
    add("--rivals", type=_names, metavar="A,B", help="implementations to measure (default: all)")
    add("--threads", type=int, metavar="N", help="of each implementation (default: every core)")
    if rounds is not None:
        add(
            "--rounds",
            type=int,
            default=rounds,
            metavar="N",
            help="rounds, each with a turn per implementation (default %(default)s)",
        )
    add(
        "--steps",
        type=int,
        default=steps,
        metavar="N",
        help="measured steps per turn (default %(default)s)",
    )
    add(
        "--goal",
        dest="goals",
        type=_goals,
        default=(),
        metavar="A=RATIO,A/B=RATIO",
        help="largest accepted ratio of an implementation to eager, or to another one; the exit "
        "status is 1 unless all are met, on a quiet machine",
    )
    add(
        "--device-python",
        metavar="PATH",
        help="interpreter for the implementation `portable`, for example of an environment with "
        "another onnxruntime and without torch; exportloss must be installed there, too",
    )
    add(
        "--artifacts",
        metavar="FOLDER",
        help="folder to take exported files from, and to keep them in (default: export again)",
    )


def add_growth_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement at several sizes."""
    group = parser.add_argument_group("growth")
    axes = "; ".join(f"{name}: {axis.about}" for name, axis in AXES.items())
    group.add_argument(
        "--growth",
        choices=tuple(AXES),
        help=f"measure at several sizes and fit the exponent of time to them. {axes}",
    )
    group.add_argument(
        "--at",
        type=_names,
        metavar="A,B",
        help="sizes to measure (default: "
        + "; ".join(f"{name} {','.join(axis.usual)}" for name, axis in AXES.items())
        + ")",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the forms of output."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object")
    group.add_argument("--plot", metavar="FILE.png", help="draw the result, too")


def make_setting(bench: Bench, options: argparse.Namespace) -> Setting:
    """Make a setting from the options; the rest are the benchmark's defaults.

    Raises:
        ConfigError: A size is out of range, or does not apply to this benchmark.
    """
    usual = Scenario(**bench.defaults)
    names = ("freeze", "layout", "precision")
    freeze, layout, precision = (getattr(options, name, None) for name in names)
    if layout is not None and bench.name != "loss":
        raise ConfigError("--layout applies only to bench loss; leave it out")
    if freeze is not None and bench.name == "loss":
        raise ConfigError("--freeze does not apply to bench loss; leave it out")
    if precision is not None and bench.name == "loss":
        raise ConfigError(
            "--precision does not apply to bench loss, which is float32; leave it out"
        )
    is_of_maps = usual.loss != Scenario().loss
    if is_of_maps and ((layout, options.model) != (None, None) or options.growth == "model"):
        raise ConfigError(
            f"--layout, --weights and --growth model do not apply to the loss {usual.loss}, which "
            "reads a detector's maps as they are; leave them out"
        )
    given = {
        "image_size": image_size(options.imgsz),
        "freeze": None if freeze is None else tuple(freeze),
        "layout": layout,
        "precision": precision,
        "threads": (os.cpu_count() or 1) if options.threads is None else options.threads,
        **{name: getattr(options, name) for name in ("model", "targets", "device", "seed")},
        **{field: getattr(options, field) for _, field, _ in _NUMBERS},
    }
    said = {name: value for name, value in given.items() if value is not None}
    if "max_targets" in said and "targets" not in said:
        said["targets"] = min(usual.targets, max(said["max_targets"], 0))
    return Setting(
        scenario=dataclasses.replace(usual, **said),
        artifacts=options.artifacts,
        device_python=options.device_python,
        say=lambda text: say(text, error=True),
    )


def _goals(text: str) -> tuple[Goal, ...]:
    """Parse `portable=0.9,openvino/eager-channels-last=0.75`."""
    goals = []
    for part in text.split(","):
        names, _, ratio = part.partition("=")
        rival, _, against = names.partition("/")
        try:
            most = float(ratio)
        except ValueError:
            most = math.nan
        if not rival or not 0 < most < math.inf:
            raise argparse.ArgumentTypeError(
                f"expected NAME=RATIO or NAME/NAME=RATIO with a ratio above 0, such as "
                f"portable=0.9, got {part!r}"
            )
        goals.append(Goal(rival=rival, against=against or "eager", most=most))
    return tuple(goals)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))

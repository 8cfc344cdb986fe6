"""The options of `exportloss bench`, and what they mean."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import get_args

from exportloss.bench import AXES, Bench, Scenario, Setting
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
    (("--batch-size", "--batch"), "batch_size", "images in a batch"),
    (("--max-targets",), "max_targets", "slots for boxes in a batch"),
)


def add_size_arguments(parser: argparse.ArgumentParser, benches: Sequence[Bench]) -> None:
    """Add what a `Scenario` has; all default to None, for "not said"."""
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
        help=f"boxes in the batch {default('targets')[:-1]}, or as many as there are slots)",
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
            "--layout",
            choices=get_args(Layout),
            help="what the loss starts from: maps (B, na, H, W, 5 + nc); the output of the head's "
            "convolution, (B, na * (5 + nc), H, W), of which eager torch makes those maps; or its "
            "input, (B, C, H, W), so that the head is measured with the loss " + default("layout"),
        )
    if any(bench.name != "loss" for bench in benches):
        group.add_argument(
            "--freeze",
            type=int,
            nargs="+",
            metavar="N",
            help="keep layers as they are, as in `exportloss export` "
            f"{default('freeze').rstrip(',)')}: none)",
        )
        group.add_argument(
            "--precision",
            choices=get_args(Arithmetic),
            help=f"what the network computes in, on a GPU {default('precision')}",
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
    add("--rivals", type=_names, metavar="A,B", help="who takes part (default: all)")
    add("--threads", type=int, metavar="N", help="of each rival (default: every core)")
    if rounds is not None:
        add(
            "--rounds",
            type=int,
            default=rounds,
            metavar="N",
            help="everybody has a turn in each (default %(default)s)",
        )
    add(
        "--steps",
        type=int,
        default=steps,
        metavar="N",
        help="that are measured, in a turn (default %(default)s)",
    )
    add(
        "--device-python",
        metavar="PATH",
        help="interpreter for the rival `portable`, of an environment with another onnxruntime and "
        "without torch for example; exportloss must be installed there, too",
    )
    add(
        "--artifacts",
        metavar="FOLDER",
        help="where to look for exported files, and to keep them (default: exported anew)",
    )


def add_growth_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measuring of several sizes."""
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
        help="these sizes (default: "
        + "; ".join(f"{name} {','.join(axis.usual)}" for name, axis in AXES.items())
        + ")",
    )


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is done with the result."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object")
    group.add_argument("--plot", metavar="FILE.png", help="draw it, too")


def make_setting(bench: Bench, options: argparse.Namespace) -> Setting:
    """Take what was said; the rest is as usual for the benchmark.

    Raises:
        ConfigError: a size cannot be, or means nothing to this benchmark.
    """
    usual = Scenario(**bench.defaults)
    names = ("freeze", "layout", "precision")
    freeze, layout, precision = (getattr(options, name, None) for name in names)
    if layout is not None and bench.name != "loss":
        raise ConfigError("--layout is of the loss alone")
    if freeze is not None and bench.name == "loss":
        raise ConfigError("--freeze means nothing to the loss alone")
    if precision is not None and bench.name == "loss":
        raise ConfigError("--precision means nothing to the loss alone, which is float32")
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


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))

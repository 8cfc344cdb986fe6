"""Flags of `exportloss train`; none has a default in argparse: see `TrainOptions`."""

from __future__ import annotations

import argparse
import functools
from typing import get_args

from exportloss.cli.arguments import add_export_arguments
from exportloss.cli.defaults import default_of
from exportloss.cli.device_options import add_device_arguments
from exportloss.cli.train.options import TrainOptions
from exportloss.distributed.communicator import Distributed
from exportloss.runtime.artifact.kinds import KINDS
from exportloss.runtime.data.capacity import Overflow
from exportloss.runtime.data.loader import Cache

__all__ = ["add_train_arguments"]

_default = functools.partial(default_of, TrainOptions)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; None means "not given"."""
    _add_sources(parser.add_argument_group("what to train, and on what"))
    _add_schedule(parser.add_argument_group("how long, and at what rates"))
    _add_outputs(parser.add_argument_group("what is written, and where"))
    _add_machine(parser.add_argument_group("the machine"))
    fixed = parser.add_argument_group("fixed when artifacts are exported (for a size or file)")
    fixed.add_argument(
        "--format",
        choices=tuple(kind.format for kind in KINDS.values() if kind.trains),
        help="the portable step, or ONNX Runtime training artifacts "
        f"(default {_default('format')})",
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
        "artifacts; or a size or file as for `exportloss export`, which is exported first (needs "
        "torch)",
    )
    add(
        "--artifacts",
        metavar="FOLDER",
        help="artifacts to train the weights of a run with, if its own are gone; with --resume "
        "the folder that they were moved to",
    )
    add("--data", metavar="YAML", help="data set, YOLOv5's data.yaml")
    add(
        "--hyp",
        metavar="YAML",
        help="hyperparameters in YOLOv5's form, or yolov5 or task-aligned for the defaults of that "
        "loss (default: those of the artifacts' loss)",
    )
    add(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="continue the run in this folder, with its options (without RUN: the last one of "
        "--project); pass more --epochs for a finished run, --data for moved data",
    )
    add(
        "--overflow",
        choices=get_args(Overflow),
        help="a batch with more boxes than --max-targets is refused, or loses its smallest boxes "
        f"(default {_default('overflow')}: mosaics lose them, counted; all others are refused)",
    )
    _add_flag(
        group,
        "--skip-bad",
        "skip images that are damaged or have bad labels, instead of refusing",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--epochs", type=int, metavar="N", help=f"default {_default('epochs')}")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="stop after this many epochs without a better one "
        f"(default {_default('patience')}; 0 never stops)",
    )
    add(
        "--max-skipped",
        type=int,
        metavar="N",
        help="give up after this many batches in a row, or a whole epoch, whose loss or gradients "
        f"are not finite; such a batch changes nothing (default {_default('max_skipped')})",
    )
    _add_flag(group, "--cos-lr", "the learning rate falls along a cosine, not a line")
    add(
        "--nominal-batch",
        type=int,
        metavar="N",
        help="images over which gradients are accumulated, approximately "
        f"(default {_default('nominal_batch')}, as in YOLOv5)",
    )
    add(
        "--seed",
        type=int,
        metavar="N",
        help=f"seed of all random numbers (default {_default('seed')})",
    )
    _add_flag(
        group,
        "--image-weights",
        "draw the images of an epoch with replacement, those of rare and badly detected classes "
        "more often",
    )
    _add_flag(group, "--noval", "validate at the start and after the last epoch only")


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--project", metavar="FOLDER", help=f"folder of the runs (default {_default('project')})")
    add(
        "--name",
        metavar="NAME",
        help=f"of the run: exp, then exp2, exp3, ... (default {_default('name')})",
    )
    _add_flag(group, "--exist-ok", "use project/name even if it exists; its results are replaced")
    _add_flag(
        group,
        "--nosave",
        "write weights only at the end: spares a flash disk, but an interrupted run is lost",
    )
    add(
        "--save-period",
        type=int,
        metavar="N",
        help="keep weights/epochN.safetensors every N epochs "
        f"(default {_default('save_period')}: none)",
    )
    _add_flag(group, "--noplots", "draw no images and plots")


def _add_machine(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add_device_arguments(group, unsaid=True)
    add("--threads", type=int, metavar="N", help="of the engine (default: every core)")
    add(
        "--distributed",
        choices=get_args(Distributed),
        help="share the batches of each update among the processes that mpiexec starts, which "
        "send gradients by MPI, or between GPUs by NCCL; needs mpi4py, and artifacts in format "
        "step (default: one process)",
    )
    add(
        "--workers",
        type=int,
        metavar="N",
        help=f"threads that decode images (default {_default('workers')})",
    )
    add(
        "--cache",
        nargs="?",
        const="ram",
        choices=(*get_args(Cache), "features"),
        help="keep decoded images in memory (ram, also for --cache alone), or as files in the "
        "user's cache folder (disk); or, of artifacts with --freeze and --features and without "
        "augmentation, keep what the frozen layers compute of them in memory (features)",
    )

"""`exportloss demo`: the whole workflow on drawn shapes, compared with eager torch."""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from exportloss.cli.defaults import default_of, fill
from exportloss.cli.outputs import check_outputs
from exportloss.cli.terminal import Terminal, say
from exportloss.cli.train.progress import report
from exportloss.cli.verify import print_verification
from exportloss.demo.settings import DemoSettings
from exportloss.errors import ArtifactError, InstallationError
from exportloss.runtime.sessions.installation import how_to_install, import_onnxruntime_training

if TYPE_CHECKING:
    from exportloss.demo.run import DemoResult

__all__ = ["add_parser", "run"]

_LEAST_WIDTH = 100
_PACKAGES = ("torch", "onnx", "onnx_ir", "onnxscript", "matplotlib")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="draw a data set, train YOLOv5n on it in ONNX Runtime, compare with eager torch",
        description="Draw a small data set of shapes, export YOLOv5n for it, train it from random "
        "weights in ONNX Runtime and in eager torch, verify, and write an image of the loss "
        "curves and one of the boxes found before and after. Takes a few minutes on two cores.",
    )
    parser.add_argument(
        "--output", default="runs/demo", metavar="FOLDER", help="default %(default)s"
    )
    for names, field, metavar, about in (
        (("--epochs",), "epochs", "N", "of training"),
        (("--imgsz", "--img", "--img-size"), "image_size", "N", "image side, a multiple of 32"),
        (("--batch-size", "--batch"), "batch_size", "N", "images per step"),
        (("--lr",), "lr", "RATE", "learning rate after warm-up, the highest"),
        (("--seed",), "seed", "N", "of images, weights and order"),
    ):
        default = default_of(DemoSettings, field)
        parser.add_argument(
            *names,
            dest=field,
            type=type(default),
            default=default,
            metavar=metavar,
            help=f"{about} (default %(default)s)",
        )
    parser.add_argument(
        "--weights", metavar="FILE", help="weights to start from (default: random ones)"
    )
    parser.add_argument(
        "--float64", action="store_true", help="train in eager torch in double precision, too"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of ONNX Runtime (default: every core)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration; return 0 where verification passed and 1 otherwise."""
    settings = fill(DemoSettings, options)
    _check_packages()
    _check_files(Path(options.output), settings)
    from exportloss.demo.run import demo

    started = time.monotonic()
    result = demo(options.output, settings, say=lambda text: say(f"\n== {text}"), reporting=report)
    for verification in result.verifications.values():
        print_verification(verification)
    _print_figures(result, time.monotonic() - started)
    return 0 if result.passed else 1


def _check_packages() -> None:
    """Check that every package that the demonstration comes to need is installed.

    Raises:
        InstallationError: One is missing; the message names it.
    """
    try:
        for package in _PACKAGES:
            import_module(package)
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"the demo exports and compares with eager torch, but {error.name} is not installed; "
            f"{how_to_install('export')}"
        ) from error
    import_onnxruntime_training()


def _check_files(output: Path, settings: DemoSettings) -> None:
    """Check what is read and written, before minutes of training.

    Raises:
        ArtifactError: The weights are missing, damaged or those of no detector, or `output` is
            no folder.
        ConfigError: The weights lie in `output`.
    """
    if output.exists() and not output.is_dir():
        raise ArtifactError(f"{output} is a file; expected a folder for --output")
    if settings.weights is None:
        return
    check_outputs([Path(settings.weights)], (), trees=[output])
    from exportloss.models import read_checkpoint

    read_checkpoint(settings.weights)


def _print_figures(result: DemoResult, seconds: float) -> None:
    from exportloss.demo.run import TITLES

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for title in (
        *("training loss", "from eager torch", "mAP50", "objects found", "wrong boxes", "seconds"),
    ):
        table.add_column(title, justify="right")
    found = result.before
    found_before = f"{found.right} of {found.objects}"
    table.add_row("before training", "", "", "", found_before, str(found.wrong))
    for engine, run in result.runs.items():
        first, last = result.train_losses(engine)
        table.add_row(
            TITLES[engine],
            f"{first:.3f} -> {last:.3f}",
            "" if engine == "eager" else _percent(max(result.gaps(engine, "train"))),
            "" if run.map50 is None else f"{run.map50:.3f}",
            f"{run.after.right} of {run.after.objects}",
            str(run.after.wrong),
            f"{run.seconds:.0f}",
        )
    console = Terminal(least_width=_LEAST_WIDTH)
    console.print()
    console.print(table)
    say(
        f"""
from eager torch: largest difference of the training loss in any epoch; eager torch has one thread
mAP50, objects found: in the validation images; found at confidence 0.25 and IoU 0.5

seconds      {seconds:.0f} in all
loss curves  {result.losses}
boxes        {result.predictions}
detector     {result.runs["portable"].result.folder.best_onnx}"""
    )


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2g} %"

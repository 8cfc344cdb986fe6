"""`exportloss demo`: the whole way once, on drawn shapes, with eager torch beside it."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from exportloss.cli.outputs import check_outputs
from exportloss.cli.terminal import Terminal, say
from exportloss.cli.train.progress import report
from exportloss.cli.verify import print_verification
from exportloss.errors import InstallationError
from exportloss.runtime.sessions.installation import how_to_install, import_onnxruntime_training

if TYPE_CHECKING:
    from exportloss.demo.run import DemoResult

__all__ = ["add_parser", "run"]

_LEAST_WIDTH = 100
_DEFAULTS = {"epochs": 14, "imgsz": 160, "batch_size": 4, "lr": 0.02, "seed": 0}


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
    for names, kind, metavar, about in (
        (("--epochs",), int, "N", "of training"),
        (("--imgsz", "--img", "--img-size"), int, "N", "side of the images, a multiple of 32"),
        (("--batch-size", "--batch"), int, "N", "images a step"),
        (("--lr",), float, "RATE", "learning rate after warm-up, the highest"),
        (("--seed",), int, "N", "of images, weights and order"),
    ):
        name = names[0].removeprefix("--").replace("-", "_")
        parser.add_argument(
            *names,
            type=kind,
            default=_DEFAULTS[name],
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
    try:
        import matplotlib  # noqa: F401 - missed now rather than after minutes of training

        from exportloss.demo.run import DemoSettings, demo
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"the demo exports and compares with eager torch, but {error.name} is not installed; "
            f"{how_to_install('export')}"
        ) from error
    if options.weights is not None:
        check_outputs([Path(options.weights)], (), trees=[Path(options.output)])
    import_onnxruntime_training()  # the same
    started = time.monotonic()
    result = demo(
        options.output,
        DemoSettings(
            epochs=options.epochs,
            image_size=options.imgsz,
            batch_size=options.batch_size,
            lr=options.lr,
            seed=options.seed,
            weights=options.weights,
            float64=options.float64,
            threads=options.threads,
        ),
        say=lambda text: say(f"\n== {text}"),
        reporting=report,
    )
    for verification in result.verifications.values():
        print_verification(verification)
    _print_figures(result, time.monotonic() - started)
    return 0 if result.passed else 1


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


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"

"""`exportloss demo`: the whole way once, on drawn shapes, with eager torch beside it."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from exportloss.cli.progress import report
from exportloss.cli.verify import print_verification
from exportloss.errors import InstallationError

if TYPE_CHECKING:
    from exportloss.export.demo import DemoResult

__all__ = ["add_parser", "run"]

_DEFAULTS = {"epochs": 18, "imgsz": 160, "batch_size": 8, "lr": 0.02, "seed": 0}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "demo",
        help="draw a data set, train YOLOv5n on it in ONNX Runtime, compare with eager torch",
        description="Draw a small data set of shapes, export YOLOv5n for it, train it from random "
        "weights in ONNX Runtime and in eager torch, verify, and write a picture of the loss "
        "curves and one of the boxes found before and after. Takes a few minutes on two cores.",
    )
    parser.add_argument(
        "--output", default="runs/demo", metavar="FOLDER", help="default %(default)s"
    )
    for names, kind, metavar, about in (
        (("--epochs",), int, "N", "of training"),
        (("--imgsz", "--img", "--img-size"), int, "N", "side of the pictures, a multiple of 32"),
        (("--batch-size", "--batch"), int, "N", "pictures a step"),
        (("--lr",), float, "RATE", "learning rate after warm-up, the highest"),
        (("--seed",), int, "N", "of pictures, weights and order"),
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
        "--threads", type=int, metavar="N", help="of ONNX Runtime (default: every core)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration; return 0 where verification passed and 1 otherwise."""
    try:
        import matplotlib  # noqa: F401 - missed now rather than after minutes of training

        from exportloss.export.demo import DemoSettings, demo
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"the demo exports and compares with eager torch, but {error.name} is not installed; "
            "pip install exportloss[export]"
        ) from error
    started = time.monotonic()
    result = demo(
        options.output,
        DemoSettings(
            epochs=options.epochs,
            image_size=options.imgsz,
            batch_size=options.batch_size,
            lr=options.lr,
            seed=options.seed,
            threads=options.threads,
        ),
        say=lambda text: print(f"\n== {text}", flush=True),
        reporting=report,
    )
    print_verification(result.verification)
    _print_figures(result, time.monotonic() - started)
    return 0 if result.verification.passed else 1


def _print_figures(result: DemoResult, seconds: float) -> None:
    first, last = result.train_losses
    before, after = result.before, result.after
    worst = result.verification.worst
    training, validation = result.gaps("train"), result.gaps("val")
    print(
        f"""
training loss       {first:.3f} -> {last:.3f} in {len(result.onnxruntime.epochs)} epochs
objects found       {before.right} -> {after.right} of {after.objects}, \
{before.wrong} -> {after.wrong} wrong boxes (validation, confidence 0.25, IoU 0.5)
curves              training differs from eager torch by {_percent(max(training))} at most, \
{_percent(training[-1])} in the end
                    validation by {_percent(max(validation))} at most, \
{_percent(validation[-1])} in the end
one step            gradients differ by {worst.gradient_whole.value:.1e}, \
loss by {worst.loss.value:.1e} at most
seconds             {seconds:.0f} in all; training {result.seconds["onnxruntime"]:.0f} in ONNX \
Runtime, {result.seconds["torch"]:.0f} in eager torch on one thread
loss curves         {result.losses}
boxes               {result.predictions}
detector            {result.onnxruntime.folder.best_onnx}"""
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"

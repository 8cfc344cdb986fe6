"""`exportloss verify`: whether an artifact trains as eager torch does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from exportloss.cli.defaults import default_of
from exportloss.cli.export.own_model import load_own_model
from exportloss.cli.run_paths import verified_folder
from exportloss.cli.terminal import Terminal, say
from exportloss.config import LossConfig
from exportloss.errors import InstallationError
from exportloss.export.verify.settings import LEARNING_RATE, SEED, STEPS
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.sessions.installation import how_to_install
from exportloss.runtime.sessions.registry import open_session

if TYPE_CHECKING:
    from exportloss.export.verify.report import Verification

__all__ = ["add_parser", "print_verification", "run"]

_LABELS = {
    "loss": "loss",
    "gradient": "gradient, worst",
    "gradient_whole": "gradient, whole",
    "parameters": "parameters",
    "statistics": "statistics",
    "memory": "optimizer state",
    "state": "state of the loss",
    "ema": "moving average",
    "free_loss": "loss, free run",
}
_SHOWN_STEPS = 5
_LEAST_WIDTH = 80


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "verify",
        help="train a few steps beside eager torch and compare every number",
        description="Train a few steps on random images, with the artifact and in eager torch "
        "from the same state, and compare loss, gradients, parameters, statistics and optimizer "
        "state. The exit status is 1 if a difference exceeds its bound.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="artifacts folder, or a run for the one that it is trained with; several of one "
        "training are verified on the same batches, in little more than the time of one",
    )
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="default %(default)s")
    parser.add_argument(
        "--lr", type=float, default=LEARNING_RATE, metavar="RATE", help="default %(default)s"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=SEED,
        metavar="N",
        help="of images and boxes (default %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of both engines (default: their own choice)"
    )
    parser.add_argument(
        "--device",
        default=default_of(open_session, "device"),
        metavar="NAME",
        help="where the artifact trains, such as cuda or openvino, as for `exportloss train` "
        "(default %(default)s); eager torch always computes on the CPU",
    )
    parser.add_argument(
        "--model",
        metavar="FUNCTION",
        help="for a detector of your own: package.module:function, as for `exportloss export`",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Verify, print a table, return 0 if every bound holds and 1 otherwise."""
    try:
        from exportloss.export.verify.verify import verify_all
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"verify compares with eager torch, but {error.name} is not installed; "
            f"{how_to_install('export')}"
        ) from error
    folders = [str(verified_folder(Path(folder))) for folder in options.folders]
    classes = Manifest.read(folders[0]).num_classes
    model = None if options.model is None else load_own_model(options.model, classes)
    say(
        f"{options.steps} steps, in eager torch too, in float64: minutes for a large model",
    )
    verifications = verify_all(
        folders,
        steps=options.steps,
        lr=options.lr,
        seed=options.seed,
        threads=options.threads,
        device=options.device,
        model=model,
    )
    for folder, verification in zip(folders, verifications, strict=True):
        if len(verifications) > 1:
            say(f"\n{folder}, {verification.manifest.kind}")
        print_verification(verification)
    return 0 if all(one.passed for one in verifications) else 1


def print_verification(verification: Verification) -> None:
    """Print a table of the differences, the tensors with the worst, and the verdict."""
    console = Terminal(least_width=_LEAST_WIDTH)
    manifest = verification.manifest
    height, width = manifest.image_size
    console.print(
        f"{manifest.model}, {height} x {width}, batch {manifest.batch_size}, {manifest.optimizer}: "
        "relative differences from eager torch (float64), step by step from the same state",
    )
    console.print(_table(verification))
    worst = verification.worst
    for name in ("gradient", "statistics"):
        tensor = getattr(worst, name).name
        console.print(f"worst {_label(name).partition(',')[0]}: {tensor}")
    if verification.passed_over:
        console.print(
            f"skipped: {verification.passed_over} random batches on which eager torch alone "
            "disagrees with itself under rounding errors",
            highlight=False,
        )
    if verification.passed:
        console.print("passed: every bound holds", style="green")
    else:
        broken = ", ".join(_label(name).strip() for name in verification.broken)
        console.print(f"failed: over the bound in {broken}", style="red")


def _table(verification: Verification) -> Table:
    shown = verification.steps[:_SHOWN_STEPS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for number in range(1, len(shown) + 1):
        table.add_column(f"step {number}", justify="right")
    if len(verification.steps) > len(shown):
        table.add_column(f"worst of {len(verification.steps)}", justify="right")
    table.add_column("bound", justify="right")
    table.add_column("")
    manifest = verification.manifest
    changes = isinstance(manifest.loss, LossConfig) and manifest.loss.autobalance
    kept = {"state": changes, "ema": manifest.ema}
    absent = {name for name, is_kept in kept.items() if not is_kept}
    worst, rows = verification.worst.by_name, [step.by_name for step in shown]
    for name, difference in worst.items():
        if name in absent:
            continue
        cells = [row[name].value for row in rows]
        if len(verification.steps) > len(shown):
            cells.append(difference.value)
        broken = name in verification.broken
        table.add_row(
            _label(name),
            *(f"{value:.1e}" if value else "0" for value in cells),
            f"{verification.bounds.of_quantity(name):.0e}",
            "over" if broken else "ok",
            style="red" if broken else None,
        )
    return table


def _label(name: str) -> str:
    return _LABELS.get(name, f"  {name.removesuffix('_loss')}")

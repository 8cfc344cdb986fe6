"""`exportloss bench`: who does the same work faster, or in less memory."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from exportloss.bench import BENCHES, Bench, BenchResult, Scenario, Setting, run_bench
from exportloss.bench.rivals import Rival
from exportloss.cli.arguments import image_size
from exportloss.cli.bench_tables import print_result

__all__ = ["add_parser"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and one below it for each benchmark."""
    parser = subparsers.add_parser(
        "bench",
        help="time the loss or a training step against eager torch",
        description="Measure rivals that do the same work: in turn, after a check that they "
        "compute the same, each in a process of its own.",
    )
    benches = parser.add_subparsers(metavar="WHAT", required=True)
    for bench in BENCHES.values():
        _add_bench(benches, bench)


def _add_bench(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], bench: Bench
) -> None:
    rivals = "; ".join(f"{rival.name}: {rival.about}" for rival in bench.rivals)
    parser = subparsers.add_parser(
        bench.name, help=f"time {bench.about}", description=f"Time {bench.about}. {rivals}."
    )
    _add_sizes(parser.add_argument_group("sizes"), bench)
    _add_measuring(parser.add_argument_group("measuring"), bench)
    _add_output(parser.add_argument_group("output"))
    # What this benchmark has no option for stays as it is.
    parser.set_defaults(freeze=(0,), layout="permuted", run=lambda options: _run(bench, options))


def _add_sizes(group: argparse._ArgumentGroup, bench: Bench) -> None:
    default = Scenario(**bench.defaults)
    add: Callable[..., Any] = group.add_argument
    add(
        *("--weights", "--model"),
        dest="model",
        default=default.model,
        metavar="SIZE",
        help="detector, with random weights (default %(default)s)",
    )
    add(
        *("--nc", "--num-classes"),
        dest="num_classes",
        type=int,
        default=default.num_classes,
        metavar="N",
        help="classes (default %(default)s)",
    )
    add(
        *("--imgsz", "--img", "--img-size"),
        type=int,
        nargs="+",
        default=default.image_size,
        metavar="N",
        help=f"height and width in pixels, one number for both (default {default.image_size[0]})",
    )
    for names, about in (
        (("--batch-size", "--batch"), "pictures in a batch"),
        (("--max-targets",), "slots for boxes in a batch"),
    ):
        value = getattr(default, names[0].removeprefix("--").replace("-", "_"))
        add(*names, type=int, default=value, metavar="N", help=f"{about} (default {value})")
    add(
        "--targets",
        type=int,
        metavar="N",
        help=f"boxes in the batch (default {default.targets}, or as many as there are slots)",
    )
    add("--device", default="cpu", help="cpu or cuda (default %(default)s)")
    if bench.name == "loss":
        add(
            "--layout",
            choices=("permuted", "head-output"),
            default=default.layout,
            help="what the loss starts from: maps (B, na, H, W, 5 + nc), or the output of the "
            "head's convolution, (B, na * (5 + nc), H, W), of which eager torch makes those maps "
            "(default %(default)s)",
        )
    else:
        add(
            "--freeze",
            type=int,
            nargs="+",
            default=default.freeze,
            metavar="N",
            help="keep layers as they are, as in `exportloss export` (default 0: none)",
        )
    add("--seed", type=int, default=0, metavar="N", help="of weights and batch (default 0)")


def _add_measuring(group: argparse._ArgumentGroup, bench: Bench) -> None:
    add: Callable[..., Any] = group.add_argument
    add("--rivals", type=_names, metavar="A,B", help="who takes part (default: all)")
    add("--threads", type=int, metavar="N", help="of each rival (default: every core)")
    add(
        "--rounds",
        type=int,
        default=10,
        metavar="N",
        help="everybody has a turn in each (default %(default)s)",
    )
    add(
        "--steps",
        type=int,
        default=2,
        metavar="N",
        help=f"timed in a turn, after {bench.unmeasured} that is not (default %(default)s)",
    )
    add(
        "--device-python",
        metavar="PATH",
        help="interpreter for the rival `portable`, as of an environment with another onnxruntime "
        "and without torch; exportloss must be installed there, too",
    )
    add(
        "--artifacts",
        metavar="FOLDER",
        help="where to look for exported files, and to keep them (default: exported anew)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", action="store_true", help="print one JSON object")


def _run(bench: Bench, options: argparse.Namespace) -> int:
    result = run_bench(
        bench,
        _setting(bench, options),
        rivals=_rivals(bench, options),
        rounds=options.rounds,
        steps=options.steps,
    )
    _show(result, options)
    return 0


def _show(result: BenchResult, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print_result(result)


def _rivals(bench: Bench, options: argparse.Namespace) -> tuple[Rival, ...]:
    return bench.choose(options.rivals)


def _setting(bench: Bench, options: argparse.Namespace) -> Setting:
    usual = Scenario(**bench.defaults)
    given = {
        "image_size": image_size(options.imgsz),
        "targets": min(usual.targets, max(options.max_targets, 0))
        if options.targets is None
        else options.targets,
        "threads": (os.cpu_count() or 1) if options.threads is None else options.threads,
        "freeze": tuple(options.freeze),
        "layout": options.layout,
        **{
            name: getattr(options, name)
            for name in ("model", "num_classes", "batch_size", "max_targets", "device", "seed")
        },
    }
    scenario = dataclasses.replace(usual, **given)
    return Setting(
        scenario=scenario,
        artifacts=options.artifacts,
        device_python=options.device_python,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))

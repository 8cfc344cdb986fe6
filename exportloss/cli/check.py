"""`exportloss check`: whether a provider runs a whole graph."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from exportloss.cli.run_paths import graph_file
from exportloss.cli.terminal import Terminal, say
from exportloss.errors import InstallationError
from exportloss.export.providers.tables import PROVIDERS
from exportloss.runtime.sessions.installation import how_to_install

if TYPE_CHECKING:
    from exportloss.export.providers.result import CheckResult
    from exportloss.export.providers.tensorrt_parser import ParserAnswer

__all__ = ["add_parser", "print_check", "run"]

_LEAST_WIDTH = 100


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "check",
        help="list what a provider has no kernel for in a graph, without running it",
        description="Compare a graph with the list of a provider's kernels and its known faults, "
        "and ask TensorRT's own parser where it is installed. No GPU is needed. "
        "The exit status is 1 where a node would fall back to the CPU or is unsupported.",
        epilog="example: exportloss check artifacts/train_step.onnx --for cuda",
    )
    parser.add_argument(
        "file", metavar="FILE.onnx|RUN", help="the graph, or a run's folder for its best.onnx"
    )
    parser.add_argument(
        "--for",
        dest="provider",
        required=True,
        choices=PROVIDERS,
        help="ONNX Runtime's cuda or cpu, TensorRT, TensorRT for RTX, or onnxruntime-web "
        "(WebAssembly, with what WebGPU would leave to it)",
    )
    parser.add_argument(
        "--engine",
        metavar="FILE",
        help="with tensorrt or tensorrt-rtx, whose library must be installed: build the engine "
        "and write it there; this is the final answer",
    )
    parser.add_argument(
        "--compute-capability",
        metavar="X.Y",
        help="of the GPUs that the engine is for, such as 8.9; tensorrt-rtx only (default: the "
        "library's choice)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--verbose", action="store_true", help="list every operator in use")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check, print, return 0 where the provider runs the whole graph and 1 otherwise."""
    try:
        from exportloss.export.providers.check import check
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"check reads graphs with onnx, but {error.name} is not installed; "
            f"{how_to_install('export')}"
        ) from error
    file = str(graph_file(Path(options.file)))
    result = check(
        file,
        provider=options.provider,
        engine=options.engine,
        compute_capability=options.compute_capability,
    )
    if options.json:
        say(json.dumps({"file": file, **result.to_json()}, indent=1, allow_nan=False))
    else:
        print_check(file, result, verbose=options.verbose)
    return 0 if result.passed else 1


def print_check(name: str, result: CheckResult, *, verbose: bool = False) -> None:
    """Print the counts and findings; with `verbose` also every operator."""
    console = Terminal(least_width=_LEAST_WIDTH)
    console.print(f"{name}, opset {result.opset}, for {result.product}")
    if verbose:
        console.print(_operators(result))
    if result.troubles:
        console.print(_findings(result))
    good = result.nodes - result.fallbacks - result.unsupported
    console.print(
        f"{result.nodes} nodes: {good} run, {result.fallbacks} fall back to the CPU, "
        f"{result.unsupported} unsupported"
    )
    for answer in result.parsers:
        _print_answer(console, answer)
    if result.not_asked:
        console.print(f"its own parser was not asked: {result.not_asked}", soft_wrap=True)
    if result.passed:
        console.print("passed: the whole graph runs there", style="green")
    else:
        console.print("failed: see above", style="red")


def _print_answer(console: Terminal, answer: ParserAnswer) -> None:
    taken = f"the parser takes it, {answer.layers} layers" if answer.passed else "refused"
    console.print(f"{answer.library}: {taken}")
    for refusal in answer.refusals:
        where = f"{refusal.operator} {refusal.node}: " if refusal.operator else ""
        console.print(f"  {where}{refusal.reason}")
    if answer.engine is not None:
        size, seconds = answer.engine.size / 1e6, answer.engine.seconds
        console.print(f"  engine: {size:.1f} MB, built in {seconds:.1f} s")


def _findings(result: CheckResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "what", "nodes", "why", "what to do"):
        table.add_column(column, justify="right" if column == "nodes" else "left")
    for finding in result.troubles:
        what = f"{finding.name}: {finding.nodes[0]}" if finding.nodes else finding.name
        verdict = finding.verdict.name.lower()
        table.add_row(verdict, what, str(finding.count), finding.why, finding.remedy)
    return table


def _operators(result: CheckResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("operator", "version", "types", "nodes", ""):
        table.add_column(column, justify="right" if column in ("version", "nodes") else "left")
    for use in result.operators:
        version = "" if use.version is None else str(use.version)
        verdict = use.verdict.name.lower()
        table.add_row(use.operator, version, " ".join(use.types), str(use.count), verdict)
    return table

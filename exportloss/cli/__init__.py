"""The `exportloss` command."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import exportloss
from exportloss.cli import bench, check, completion, demo, detect, export, train, val, verify
from exportloss.errors import ExportLossError

__all__ = ["main", "make_parser"]

_COMMANDS = (export, train, val, detect, verify, check, bench, demo, completion)
_REFUSED, _INTERRUPTED, _TERMINATED = 2, 130, 143


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what is open is closed first."""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command and its subcommands."""
    parser = argparse.ArgumentParser(
        prog="exportloss", description="Train YOLOv5 detectors where PyTorch is not."
    )
    parser.add_argument("--version", action="version", version=exportloss.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 a check failed, 2 refused."""
    options = make_parser().parse_args(arguments)
    try:
        with _termination_raises():
            status: int = options.run(options)
    except ExportLossError as error:
        print(f"exportloss: error: {error}", file=sys.stderr)
        return _REFUSED
    except _Terminated:
        print("exportloss: terminated", file=sys.stderr)
        return _TERMINATED
    except KeyboardInterrupt:
        print("exportloss: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return status


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    def terminate(*_: Any) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, whose business signals are
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

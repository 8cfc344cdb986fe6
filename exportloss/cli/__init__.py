"""The `exportloss` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import exportloss
from exportloss.cli import demo, detect, export, train, val, verify
from exportloss.errors import ExportLossError

__all__ = ["main"]

_COMMANDS = (export, train, val, detect, verify, demo)
_REFUSED, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0 done, 1 a check failed, 2 refused."""
    parser = argparse.ArgumentParser(
        prog="exportloss", description="Train YOLOv5 detectors where PyTorch is not."
    )
    parser.add_argument("--version", action="version", version=exportloss.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except ExportLossError as error:
        print(f"exportloss: error: {error}", file=sys.stderr)
        return _REFUSED
    except KeyboardInterrupt:
        print("exportloss: interrupted", file=sys.stderr)
        return _INTERRUPTED
    return status

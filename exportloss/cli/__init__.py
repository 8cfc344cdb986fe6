"""The `exportloss` command."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

import exportloss
from exportloss.cli import check, completion, demo, fleet, history, publish, verify
from exportloss.cli.bench import command as bench
from exportloss.cli.detection import detect, val
from exportloss.cli.export import command as export
from exportloss.cli.hints import with_flag
from exportloss.cli.terminal import say
from exportloss.cli.train import command as train
from exportloss.cli.unknown_flags import explain
from exportloss.errors import ExportLossError, excerpt, printable

__all__ = ["main", "make_parser"]

_COMMANDS = (
    *(export, train, val, detect, history, publish),
    *(verify, check, bench, demo, fleet, completion),
)
_REFUSED, _INTERRUPTED, _CLOSED, _TERMINATED = 2, 130, 141, 143
_LONGEST = 1000  # characters of an error that is not ours
_TRACEBACK = "EXPORTLOSS_TRACEBACK"  # environment variable: keep the traceback of such an error


class _Terminated(KeyboardInterrupt):
    """Raised by SIGTERM, so that a command closes its files as after Ctrl-C."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command and its subcommands."""
    parser = _Parser(
        prog="exportloss", description="Fine-tune YOLOv5 on the device, without PyTorch."
    )
    parser.add_argument("--version", action="version", version=exportloss.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Every error is reported in one line or as a list of corrections, never as a traceback. With the
    environment variable `EXPORTLOSS_TRACEBACK` an error that is not ours keeps its traceback.

    Returns:
        0 for success, 1 for a failed check, 2 for an error; after signals, as in shells, 130 for
        an interrupt, 141 for a closed output, 143 for termination.

    Raises:
        SystemExit: 2 for arguments that cannot be parsed, 0 after `--help` and `--version`.
    """
    signals = _Signals()
    try:
        with signals:
            options = _parse(arguments)
            status: int = options.run(options)
        return status
    except SystemExit:
        raise
    except BaseException as error:  # including panics of libraries in Rust
        if signals.terminated or isinstance(error, _Terminated):
            return _tell("terminated", _TERMINATED)
        # An interrupt during an import can surface as another error.
        if signals.interrupted or isinstance(error, KeyboardInterrupt):
            return _tell("interrupted", _INTERRUPTED)
        if isinstance(error, BrokenPipeError):
            return _CLOSED
        if isinstance(error, ExportLossError):
            return _tell(f"error: {with_flag(error)}", _REFUSED)
        if os.environ.get(_TRACEBACK):
            raise
        return _tell(f"error: {_describe(error)}", _REFUSED)


def _tell(what: str, status: int) -> int:
    with contextlib.suppress(OSError):  # the output is closed, or the disk is full
        say(f"exportloss: {what}", error=True)
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse; exit with the usage of the subcommand and an explanation of the first unknown flag."""
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        used = commands.choices[options.command]
        used.error(explain(options.command, used, unknown))
    return options


def _describe(error: BaseException) -> str:
    """Return one line that describes an error that is not ours."""
    text = excerpt(" ".join(str(error).split()), _LONGEST)
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({text})" if text else "there is not enough memory"
    if isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text} (for where it comes from, set {_TRACEBACK}=1)"


class _Signals:
    """Context in which SIGTERM ends a command as Ctrl-C does, closing what is open.

    Attributes:
        interrupted: Whether Ctrl-C was pressed.
        terminated: Whether SIGTERM was received.
    """

    def __init__(self) -> None:
        self.interrupted = self.terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        with contextlib.suppress(ValueError):  # only the main thread handles signals
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
            # Shells make background jobs ignore it.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, *_: object) -> NoReturn:
        self.interrupted = True
        raise KeyboardInterrupt

    def _terminate(self, *_: object) -> NoReturn:
        self.terminated = True
        raise _Terminated

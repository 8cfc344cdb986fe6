"""The `exportloss` command."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Any, NoReturn

import exportloss
from exportloss.cli import check, completion, demo, history, verify
from exportloss.cli.bench import command as bench
from exportloss.cli.detection import detect, val
from exportloss.cli.export import command as export
from exportloss.cli.hints import with_flag
from exportloss.cli.terminal import say
from exportloss.cli.train import command as train
from exportloss.cli.unknown_flags import explain
from exportloss.errors import ExportLossError, excerpt, printable

__all__ = ["main", "make_parser"]

_COMMANDS = (export, train, val, detect, history, verify, check, bench, demo, completion)
_REFUSED, _INTERRUPTED, _CLOSED, _TERMINATED = 2, 130, 141, 143
_LONGEST = 1000  # characters of an error that is not ours
_TRACEBACK = "EXPORTLOSS_TRACEBACK"  # environment variable: show where such an error comes from


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: what is open is closed first."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command and its subcommands."""
    parser = _Parser(prog="exportloss", description="Train YOLOv5 detectors where PyTorch is not.")
    parser.add_argument("--version", action="version", version=exportloss.__version__)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, dest="command")
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Whatever happens is told in a line or in a list of what to correct, never as a traceback. The
    environment variable `EXPORTLOSS_TRACEBACK` shows that of an error that is not ours.

    Returns:
        0 done, 1 a check failed, 2 refused or broken off; as shells count signals, 130 interrupted,
        141 whoever read the output has gone, 143 terminated.

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
    except BaseException as error:  # also what libraries in other languages panic with
        if signals.terminated or isinstance(error, _Terminated):
            return _tell("terminated", _TERMINATED)
        # It may have come while a module was loaded, which then says that it cannot be.
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
    with contextlib.suppress(OSError):  # nobody is there to read it, or the disk is full
        say(f"exportloss: {what}", error=True)
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse, or end with the usage of the very command and a word about what it does not know."""
    parser = make_parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        used = commands.choices[options.command]
        used.error(explain(options.command, used, unknown))
    return options


def _describe(error: BaseException) -> str:
    """Return an error that is not ours as a line."""
    text = excerpt(" ".join(str(error).split()), _LONGEST)
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({text})" if text else "there is not enough memory"
    if isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text} (for where it comes from, set {_TRACEBACK}=1)"


class _Signals:
    """While it is entered, Ctrl-C and SIGTERM end a command alike: what is open is closed first.

    Attributes:
        interrupted: whether there was a Ctrl-C.
        terminated: whether there was a SIGTERM.
    """

    def __init__(self) -> None:
        self.interrupted = self.terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        with contextlib.suppress(ValueError):  # not in the main thread, whose business signals are
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
            # A shell lets what runs in the background ignore it.
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

"""`exportloss completion`: scripts for the completion of options in shells."""

from __future__ import annotations

import argparse
from importlib import import_module

from exportloss.cli.terminal import say
from exportloss.errors import InstallationError
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["add_parser", "run"]

_SHELLS = ("bash", "zsh", "tcsh")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "completion",
        help="print a script that lets a shell complete commands and options",
        description="Print a script that lets a shell complete commands and options. "
        "Needs shtab, which the extra `completion` installs.",
        epilog="example: exportloss completion bash > "
        "~/.local/share/bash-completion/completions/exportloss",
    )
    parser.add_argument("shell", choices=_SHELLS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    from exportloss.cli import make_parser

    try:
        shtab = import_module("shtab")
    except ModuleNotFoundError as error:
        raise InstallationError(
            "completion scripts are made by shtab, which is not installed; "
            f"{how_to_install('completion')}"
        ) from error
    say(shtab.complete(make_parser(), shell=options.shell))
    return 0

"""`exportloss fleet`: the folder for a federated run with Flower."""

from __future__ import annotations

import argparse

from exportloss.cli.terminal import say
from exportloss.fleet.project import new_project

__all__ = ["add_parser", "run"]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "fleet",
        help="prepare federated training of a fleet of devices with Flower",
        description="Federated training of a fleet of devices with Flower (the extra `flower`).",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="fleet_command")
    new = commands.add_parser(
        "new",
        help="write the pyproject.toml that `flwr run` takes, and nothing else",
        description="Write the pyproject.toml that `flwr run` takes, and nothing else. The code "
        "that server and devices run is in the installed package.",
    )
    new.add_argument("folder", metavar="FOLDER", help="missing or empty folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the file; return 0."""
    say(f"wrote {new_project(options.folder)}")
    return 0

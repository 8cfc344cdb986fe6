"""The server from a mapping of settings, whatever network carries its messages."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ConfigError, printable
from exportloss.fleet.record import RunRecord
from exportloss.fleet.server import Network, run_fleet
from exportloss.fleet.settings import FleetSettings, take_fields
from exportloss.runtime.data.dataset import read_data_yaml
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["ServerConfig", "run_server"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """The server's own settings, from the run's config.

    Attributes:
        artifacts: Artifacts folder, a portable step of the same export as the devices'.
        data: `data.yaml` whose validation split decides on the best round; "" for none.
        weights: State to start from; "" for the artifacts'.
        output: Run folder; an interrupted run in it is resumed.
        threads: Threads of the engine, >= 1.

    Raises:
        ConfigError: `artifacts` or `output` is missing.
    """

    artifacts: str = ""
    data: str = ""
    weights: str = ""
    output: str = ""
    threads: int = 1

    def __post_init__(self) -> None:
        if missing := [name for name in ("artifacts", "output") if not getattr(self, name)]:
            raise ConfigError(
                f"the run's config lacks {', '.join(missing)}; pass flwr run --run-config "
                '\'artifacts="FOLDER" output="FOLDER"\', with absolute paths'
            )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ServerConfig:
        """Take the settings from a mapping; other keys are ignored."""
        config: ServerConfig = take_fields(cls, values)
        return config


def run_server(network: Network, values: Mapping[str, Any]) -> RunRecord:
    """Run or resume a federated training with the settings of a mapping.

    Args:
        network: The devices.
        values: Keys of `ServerConfig` and `FleetSettings`, with `-` or `_`; others are ignored.

    Raises:
        ExportLossError: as for `run_fleet` and `open_session`.
    """
    config, settings = ServerConfig.of(values), FleetSettings.of(values)
    session = open_session(config.artifacts, threads=config.threads, evaluation_only=True)
    output = Path(config.output)
    return run_fleet(
        network,
        settings,
        session=session,
        data=read_data_yaml(Path(config.data)) if config.data else None,
        folder=RunFolder.create(output.parent, output.name, exist_ok=True),
        weights=config.weights or None,
        say=_tell,
    )


def _tell(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
    sys.stdout.flush()

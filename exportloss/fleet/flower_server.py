"""Flower's ServerApp: runs the rounds over Flower's grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from exportloss.errors import ConfigError
from exportloss.fleet.flower import pack_task, unpack_result
from exportloss.fleet.messages import Answer, Task
from exportloss.fleet.server import run_fleet
from exportloss.fleet.settings import FleetSettings, take_fields
from exportloss.runtime.data.dataset import read_data_yaml
from exportloss.runtime.sessions.registry import open_session
from exportloss.runtime.training.run_folder import RunFolder

from flwr.app import Context, Message  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

__all__ = ["ServerConfig", "app"]

app = ServerApp()
_TYPES = {"train": "train", "finish": "evaluate"}


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


class FlowerNetwork:
    """The nodes of a grid.

    Args:
        grid: Flower's grid.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def nodes(self) -> Sequence[int]:
        """Return the numbers of the nodes that are online."""
        return list(self._grid.get_node_ids())

    def ask(self, task: Task, nodes: Sequence[int], seconds: float) -> Iterator[Answer]:
        """Send a task to nodes and return the answers that came in time."""
        messages = [
            Message(
                pack_task(task), node, _TYPES[task.action], ttl=seconds, group_id=str(task.round)
            )
            for node in nodes
        ]
        for reply in self._grid.send_and_receive(messages, timeout=seconds):
            node = reply.metadata.src_node_id
            if reply.has_error():
                error = reply.error
                yield Answer(node=node, result=f"Flower's error {error.code}: {error.reason}")
            else:
                yield Answer(node=node, result=unpack_result(reply.content))


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the rounds; errors end the run with their message in Flower's log."""
    values = context.run_config
    config, settings = ServerConfig.of(values), FleetSettings.of(values)
    session = open_session(config.artifacts, threads=config.threads, evaluation_only=True)
    output = Path(config.output)
    run_fleet(
        FlowerNetwork(grid),
        settings,
        session=session,
        data=read_data_yaml(Path(config.data)) if config.data else None,
        folder=RunFolder.create(output.parent, output.name, exist_ok=True),
        weights=config.weights or None,
        say=print,
    )

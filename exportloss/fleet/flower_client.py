"""Flower's ClientApp: what a SuperNode starts for every message."""

from __future__ import annotations

import os
import tomllib  # since Python 3.11, which Flower needs
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ConfigError, ExportLossError
from exportloss.fleet.flower import pack_error, pack_result, unpack_task
from exportloss.fleet.node import Node, NodeConfig

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

__all__ = ["SIMULATED", "app"]

# Folder of `0.toml`, `1.toml`, ... with the config of simulated nodes, which Flower gives a number
# only. A variable of the machine that simulates, as a node's config is of its device.
SIMULATED = "EXPORTLOSS_FLEET_NODES"

app = ClientApp()
_nodes: dict[NodeConfig, Node] = {}  # a simulation uses a process for several messages


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train a round."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Calibrate, validate and keep the detector that the run ends with."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    name = ""
    try:
        config = NodeConfig.of(_own(context.node_config))
        name = config.name
        if config not in _nodes:
            _nodes.clear()
            _nodes[config] = Node(config)
        content = pack_result(_nodes[config].handle(unpack_task(message.content)))
    except ExportLossError as error:
        content = pack_error(error, name)
    return Message(content, reply_to=message)


def _own(values: Mapping[str, Any]) -> Mapping[str, Any]:
    folder = os.environ.get(SIMULATED)
    if folder is None or "partition-id" not in values:
        return values
    path = Path(folder) / f"{int(values['partition-id'])}.toml"
    try:
        node: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return node
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}; expected the config of a simulated node") from error

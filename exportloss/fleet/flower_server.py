"""Flower's ServerApp: runs the rounds over Flower's grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from exportloss.fleet.configured_server import run_server
from exportloss.fleet.flower import pack_task, unpack_result
from exportloss.fleet.messages import Answer, Task

from flwr.app import Context, Message  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

__all__ = ["FlowerNetwork", "app"]

app = ServerApp()
_TYPES = {"train": "train", "finish": "evaluate"}


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
    run_server(FlowerNetwork(grid), context.run_config)

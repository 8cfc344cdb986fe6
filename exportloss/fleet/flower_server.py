"""Flower's ServerApp: runs the rounds over Flower's grid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from exportloss.fleet.configured_server import run_server
from exportloss.fleet.flower import pack_task, unpack_result
from exportloss.fleet.messages import Answer, Task

from flwr.app import Context, Message  # isort: skip
from flwr.serverapp import Grid, ServerApp  # isort: skip

__all__ = ["FlowerNetwork", "app"]

app = ServerApp()
# Between looks for answers, each of which asks for every one that is missing: seconds, and a
# fraction of the time waited so far.
_PAUSE, _PATIENCE = 1.0, 0.05
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
        group, kind = str(task.round), _TYPES[task.action]
        content = pack_task(task)  # the same object for all: the weights are packed once
        messages = [Message(content, node, kind, ttl=seconds, group_id=group) for node in nodes]
        sent = list(self._grid.push_messages(messages))
        # Flower's own errors come from no node: the message that they answer tells which.
        waiting = {number: node for number, node in zip(sent, nodes, strict=False) if number}
        for node in nodes:
            if node not in waiting.values():
                yield Answer(node=node, result="Flower could not send the task; see its log")
        started = time.monotonic()
        while waiting and time.monotonic() < started + seconds:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    error = reply.error
                    yield Answer(node=node, result=f"Flower's error {error.code}: {error.reason}")
                else:
                    yield Answer(node=node, result=unpack_result(reply.content))
            if waiting:
                time.sleep(max(_PAUSE, _PATIENCE * (time.monotonic() - started)))


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the rounds; errors end the run with their message in Flower's log."""
    run_server(FlowerNetwork(grid), context.run_config)

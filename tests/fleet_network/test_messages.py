"""Tasks and results through Flower's messages, and answers of nodes that Flower lost."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from exportloss import ArtifactError, ConfigError
from exportloss.fleet.flower import (
    pack_error,
    pack_result,
    pack_task,
    unpack_result,
    unpack_task,
)
from exportloss.fleet.flower_server import FlowerNetwork
from exportloss.fleet.messages import Result, Task, Vectors

VECTORS = Vectors(
    parameters=np.arange(5, dtype=np.float16), statistics=np.ones(2, np.float32), digest="d"
)
TASK = Task(
    **{"action": "train", "run": "0" * 16, "round": 3, "share": "all", "local_epochs": 2},
    **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "proximal": 0.5, "half": True},
    **{"calibrate": False, "seed": 7, "start": "e" * 64, "vectors": VECTORS},
)
RESULT = Result(name="camera", images=9, metrics={"box": 0.5}, vectors=VECTORS)


def same(one: Vectors, other: Vectors) -> bool:
    return one.digest == other.digest and all(
        getattr(one, name).dtype == getattr(other, name).dtype
        and (getattr(one, name) == getattr(other, name)).all()
        for name in ("parameters", "statistics")
    )


def test_tasks_and_results_arrive_as_they_were_sent():
    task = unpack_task(pack_task(TASK))
    assert task.settings == TASK.settings
    assert same(task.vectors, VECTORS)
    result = unpack_result(pack_result(RESULT))
    assert (result.name, result.images, result.metrics) == ("camera", 9, {"box": 0.5})
    assert same(result.vectors, VECTORS)
    assert unpack_result(pack_error(ConfigError("no"), "camera")) == "camera: no"


@pytest.mark.parametrize("part", ["task", "vectors", "layout"])
def test_a_message_that_lacks_a_part_is_refused(part):
    content = pack_task(TASK)
    del content[part]
    with pytest.raises(ConfigError, match=part):
        unpack_task(content)
    answer = pack_result(RESULT)
    if part != "task":
        del answer[part]
        found = unpack_result(answer)
        assert isinstance(found, str) or found.vectors is None


def test_a_task_with_a_key_more_or_with_damaged_arrays_is_refused():
    content = pack_task(TASK)
    content["task"]["path"] = "/etc/passwd"
    with pytest.raises(ConfigError, match="path"):
        unpack_task(content)
    content = pack_task(TASK)
    content["vectors"]["parameters"].data = b"nothing of numpy"
    with pytest.raises((ArtifactError, ConfigError)):
        unpack_task(content)


class Grid:
    """Three nodes: one answers, one is lost, and to one nothing can be sent."""

    def push_messages(self, messages):
        assert [message.metadata.dst_node_id for message in messages] == [11, 12, 13]
        return ["m11", "m12", None]

    def pull_messages(self, numbers):
        assert set(numbers) == {"m11", "m12"}
        # Flower's own errors name the server as their sender.
        lost = SimpleNamespace(code=5, reason="Node Unavailable")
        yield SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=1, reply_to_message_id="m12"),
            has_error=lambda: True,
            error=lost,
        )
        yield SimpleNamespace(
            metadata=SimpleNamespace(src_node_id=11, reply_to_message_id="m11"),
            has_error=lambda: False,
            content=pack_result(RESULT),
        )


def test_answers_are_their_nodes_whoever_sends_them(monkeypatch):
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_task_id", "_node_id"):  # what a ServerApp's process has
        monkeypatch.setattr(TaskIdentity, name, 1, raising=False)
    found = {one.node: one.result for one in FlowerNetwork(Grid()).ask(TASK, [11, 12, 13], 9.0)}
    assert found[11].name == "camera"
    assert "Node Unavailable" in found[12]
    assert "could not send" in found[13]
    assert set(found) == {11, 12, 13}

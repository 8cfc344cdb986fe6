"""A fleet whose detector has another loss: other terms, and no state between steps."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from exportloss.runtime import Detector
from tests.support.messages import missing


@pytest.fixture
def anchor_free(fleet, anchor_free_artifact):
    return dataclasses.replace(fleet, artifacts=anchor_free_artifact)


def test_a_fleet_trains_with_the_task_aligned_loss(anchor_free):
    metrics = []

    def reporting(device):
        def handle(task):
            result = device(task)
            metrics.append(result.metrics)
            return result

        return handle

    # The file has keys of this loss, which YOLOv5's does not know.
    nodes = [anchor_free.node(number, hyp="task-aligned") for number in range(2)]
    devices = [reporting(node.handle) for node in nodes]
    record = anchor_free.run(devices, rounds=1, half=True, proximal=0.1)
    assert [tuple(one) for one in metrics[:2]] == [("box", "cls", "dfl", "skipped")] * 2
    (done,) = record.rounds
    assert (done.devices, done.refused) == (("camera-0", "camera-1"), {})
    assert done.loss == pytest.approx(np.mean([one["box"] for one in metrics[:2]]))
    assert set(record.finished) == {"camera-0", "camera-1"}
    assert json.loads((anchor_free.root / "run/fleet.json").read_text())["rounds"]
    assert Detector.open(anchor_free.root / "state0/detector.onnx")


def test_a_device_with_another_loss_refuses_the_weights(fleet, anchor_free):
    stranger = anchor_free.node(1).handle
    record = fleet.run([fleet.node(0).handle, stranger], rounds=1, quorum=1)
    ((node, reason),) = record.rounds[0].refused.items()
    assert node == "node 1"
    assert not missing(reason, "another model", fleet.server().weights().layout.digest[:12])

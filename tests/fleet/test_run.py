"""Federated runs in one process: averages, refusals, resuming, what the devices keep."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from exportloss import ArtifactError, ConfigError, TrainingError
from exportloss.fleet.in_process import InProcess
from exportloss.fleet.messages import Answer, Result
from exportloss.fleet.node import Node
from exportloss.fleet.settings import FleetSettings
from exportloss.runtime import Detector, TrainSession, average
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.federated.train_round import train_round
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions, missing


def hashes(record) -> list[str]:
    return [one.sha256 for one in record.rounds]


def plain_loop(fleet, rounds: int) -> list[str]:
    """Federated averaging written down with the core alone."""
    settings = FleetSettings(rounds=rounds)
    session = TrainSession.open(fleet.artifacts, threads=1)
    weights, found = session.weights(), []
    for number in range(1, rounds + 1):
        results, images = [], []
        for data in fleet.data[:2]:
            session = TrainSession.open(fleet.artifacts, threads=1)
            session.set_weights(weights)
            split = Dataset.open(read_data_yaml(data), "train")
            flips = Augmentation(fliplr=0.5)
            batches = Batches(split, 2, (64, 64), shuffle=True, augment=flips)
            done = train_round(session, batches.epoch(number - 1), lr=settings.rate(number))
            results.append(session.weights())
            images.append(done.images)
        weights = average(results, images)
        found.append(weights.sha256)
    return found


def test_a_run_is_the_plain_loop_to_the_bit(fleet):
    assert hashes(fleet.run()) == plain_loop(fleet, 2)


def test_the_order_of_answers_does_not_matter(fleet):
    devices = fleet.devices()
    expected = hashes(fleet.run(devices))
    assert hashes(fleet.run(devices[::-1], output="reversed")) == expected


def test_the_run_folder_has_the_best_detector_and_a_record(fleet):
    record = fleet.run()
    folder = fleet.root / "run"
    assert Detector.open(folder / "weights/best.onnx")
    values = json.loads((folder / "fleet.json").read_text())
    assert [one["devices"] for one in values["rounds"]] == [["camera-0", "camera-1"]] * 2
    assert values["rounds"][0]["bytes_up"] == values["rounds"][0]["bytes_down"] == 20512
    scores = [record.start, *(one.map50 for one in record.rounds)]
    assert record.best == int(np.argmax(scores))
    assert sorted(path.name for path in (folder / "weights").iterdir()) == [
        "best.onnx",
        "best.safetensors",
        "last.safetensors",
        "round2.safetensors",
    ]
    assert set(record.finished) == {"camera-0", "camera-1"}
    assert record.finished["camera-0"]["calibration batches"] == 4


def test_every_device_keeps_a_detector_with_statistics_of_its_own(fleet):
    fleet.run()
    contents = [(fleet.root / f"state{n}/detector.onnx").read_bytes() for n in range(2)]
    best = (fleet.root / "run/weights/best.onnx").read_bytes()
    assert len({*contents, best}) == 3


def test_half_sends_half_the_bytes_and_nearly_the_same_weights(fleet):
    fleet.run(calibrate=False)
    full = TrainSession.open(fleet.artifacts, threads=1).resume(
        fleet.root / "run/weights/last.safetensors"
    )
    record = fleet.run(output="half", half=True)
    half = TrainSession.open(fleet.artifacts, threads=1).resume(
        fleet.root / "half/weights/last.safetensors"
    )
    one, other = full.weights(), half.weights()
    start = TrainSession.open(fleet.artifacts, threads=1).weights()
    sizes = one.parameters.nbytes // 2 + one.statistics.nbytes
    assert all(one.bytes_up == one.bytes_down == sizes for one in record.rounds)
    moved = np.linalg.norm(one.parameters - start.parameters)
    assert 0 < np.linalg.norm(one.parameters - other.parameters) < 1e-3 * moved


def test_a_device_that_missed_rounds_gets_what_the_others_get(fleet):
    """And what rounding takes from the weights sent, the server's own keep."""
    got: list[tuple[int, str, np.ndarray]] = []

    def spying(device, answers):
        def handle(task):
            weights = device.node_weights(task)
            got.append((task.round, task.action, weights.parameters))
            if task.round not in answers:
                raise TrainingError("asleep")
            return device.handle(task)

        return handle

    class Spied(Node):
        def node_weights(self, task):
            layout = self._session.weights_layout(share=task.share)
            return task.vectors.check(layout, base=self._base(task, layout))

    devices = [spying(Spied(fleet.config(0)), {1, 2, 3}), spying(Spied(fleet.config(1)), {2, 3})]
    fleet.run(devices, quorum=1, half=True, calibrate=False)
    by_round = {}
    for number, action, parameters in got:
        by_round.setdefault((number, action), []).append(parameters)
    start = fleet.server().weights().parameters
    for (number, action), (one, other) in by_round.items():
        np.testing.assert_array_equal(one, other)
        if action == "train":
            assert (one == start).all() == (number == 1)
    best = fleet.server().resume(fleet.root / "run/weights/best.safetensors").weights()
    np.testing.assert_array_equal(by_round[3, "finish"][0], best.parameters)


def test_changes_that_float16_cannot_hold_still_add_up(fleet):
    """A device moves a weight far, then by steps below float16's spacing at that distance."""
    far, step, rounds = np.float32(1), np.float32(2**-14), 8

    def handle(task):
        layout = fleet.server().weights_layout()
        if task.action == "finish":
            return Result(name="a", images=0, metrics={})
        moved = np.full(layout.parameters.size, far if task.round == 1 else step, np.float16)
        vectors = dataclasses.replace(task.vectors, parameters=moved)
        return Result(name="a", images=1, metrics={"box": 0.0}, vectors=vectors)

    fleet.run([handle], rounds=rounds, quorum=1, half=True)
    last = fleet.server().resume(fleet.root / "run/weights/last.safetensors").weights()
    moved = last.parameters - fleet.server().weights().parameters
    np.testing.assert_allclose(moved, far + (rounds - 1) * step, atol=2e-6)


def test_a_device_with_other_first_weights_is_refused_a_difference(fleet, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(fleet.artifacts, other)
    session = TrainSession.open(other, threads=1)
    session.step(np.zeros((2, 3, 64, 64), np.uint8), [], lr=0.1)
    session.save(other / "state.safetensors")
    content = (other / "state.safetensors").read_bytes()
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit_manifest(other, files=read_values(other)["files"] | {"state.safetensors": entry})
    stranger = fleet.node(1, artifacts=str(other)).handle
    record = fleet.run([fleet.node(0).handle, stranger], rounds=1, quorum=1, half=True)
    (reason,) = record.rounds[0].refused.values()
    assert not missing(reason, "other weights", fleet.server().weights().sha256[:12])
    assert (
        not fleet.run([fleet.node(0).handle, stranger], rounds=1, quorum=1, output="float32")
        .rounds[0]
        .refused
    )


def test_norms_stay_on_the_devices_with_fedbn(fleet):
    sent = []

    def spying(device):
        def handle(task):
            result = device(task)
            if result.vectors is not None:
                sent.append((task.vectors, result.vectors))
            return result

        return handle

    fleet.run([spying(device) for device in fleet.devices()], share="without-norms")
    assert sent
    full = TrainSession.open(fleet.artifacts, threads=1).weights().parameters.size
    for down, up in sent:
        assert not down.statistics.size
        assert not up.statistics.size
        assert down.parameters.size == up.parameters.size < full
    states = [sorted((fleet.root / f"state{n}").glob("*-2.safetensors")) for n in range(2)]
    assert all(len(one) == 1 for one in states)
    assert states[0][0].read_bytes() != states[1][0].read_bytes()


def failing_with(change):
    """A device whose result is spoilt on the way."""

    def wrap(device):
        def handle(task):
            result = device(task)
            if result.vectors is None:
                return result
            return change(result)

        return handle

    return wrap


def with_vector(result, name, value):
    vectors = dataclasses.replace(result.vectors, **{name: value})
    return dataclasses.replace(result, vectors=vectors)


def nan(result):
    bad = result.vectors.parameters.copy()
    bad[0] = np.nan
    return with_vector(result, "parameters", bad)


BAD = {
    "NaN": (nan, ["not finite"]),
    "layout": (lambda r: with_vector(r, "digest", "0" * 64), ["000000000000", "another model"]),
    "short": (lambda r: with_vector(r, "parameters", r.vectors.parameters[:-1]), ["expected"]),
    "type": (
        lambda r: with_vector(r, "parameters", r.vectors.parameters.astype(np.float16)),
        ["float16", "float32"],
    ),
    "images": (lambda r: dataclasses.replace(r, images=0), ["0 images"]),
    "many images": (lambda r: dataclasses.replace(r, images=10**12), [10**12]),
    "no loss": (lambda r: dataclasses.replace(r, metrics={}), ["box", "lack"]),
    "loss": (lambda r: dataclasses.replace(r, metrics={"box": np.nan}), ["box", "finite"]),
    "nothing": (lambda r: dataclasses.replace(r, vectors=None), ["trained"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_result_is_refused_and_named_and_the_others_are_used(fleet, kind):
    change, about = BAD[kind]
    devices = fleet.devices()
    said: list[str] = []
    good = hashes(fleet.run(devices[:1], output="good", quorum=1, rounds=1))
    spoilt = [devices[0], failing_with(change)(devices[1])]
    record = fleet.run(spoilt, quorum=1, rounds=1, say=said.append)
    assert record.rounds[0].devices == ("camera-0",)
    (reason,) = record.rounds[0].refused.values()
    assert list(record.rounds[0].refused) == ["node 1 (camera-1)"]
    pattern = mentions(*about)
    import re

    assert re.search(pattern, reason)
    assert any("camera-1" in line and reason in line for line in said)
    assert hashes(record) == good


def test_a_missed_quorum_names_the_reasons_and_the_run_can_go_on(fleet):
    expected = hashes(fleet.run(output="whole"))
    devices = fleet.devices()
    count = 0

    def breaking(task):
        nonlocal count
        count += 1
        if count == 2:
            raise TrainingError("the camera is covered")
        return devices[1](task)

    with pytest.raises(TrainingError, match=mentions("round 2", "node 1", "camera is covered")):
        fleet.run([devices[0], breaking])
    record = fleet.run(devices)
    assert hashes(record) == expected


def test_too_few_devices_are_waited_for_and_then_said(fleet):
    with pytest.raises(TrainingError, match=mentions(1, 2, "0.1 s", "round 1")):
        fleet.run(fleet.devices()[:1])


def test_a_silent_device_is_named_after_the_time_limit(fleet):
    devices = fleet.devices()

    class Silent(InProcess):
        def ask(self, task, nodes, seconds):
            return [one for one in super().ask(task, nodes, seconds) if one.node == 0]

    record = fleet.run(network=Silent(devices), quorum=1, rounds=1, round_seconds=7)
    assert record.rounds[0].refused == {"node 1": "no answer within 7 s"}
    assert "no answer" in record.finished["1"]


def test_two_devices_of_one_name_are_not_both_used(fleet):
    devices = [fleet.node(0).handle, fleet.node(1, name="camera-0").handle]
    record = fleet.run(devices, quorum=1, rounds=1)
    assert record.rounds[0].devices == ("camera-0",)
    assert "camera-0" in record.rounds[0].refused["node 1 (camera-0)"]


def test_a_device_with_another_model_refuses_the_weights(fleet, step_artifact):
    """Here the shapes differ; `test_shared_weights` has classes in another order."""
    other = fleet.node(1, artifacts=str(step_artifact))
    record = fleet.run([fleet.node(0).handle, other.handle], quorum=1, rounds=1)
    assert "another model" in record.rounds[0].refused["node 1"]


def test_a_complete_run_and_other_settings_are_refused(fleet):
    fleet.run(rounds=1)
    with pytest.raises(ConfigError, match=mentions("run", "complete")):
        fleet.run(rounds=1)
    with pytest.raises(TrainingError):
        fleet.run(fleet.devices()[:1], output="other")
    with pytest.raises(ConfigError, match=mentions("lr", 0.5, 0.01)):
        fleet.run(output="other", lr=0.5)
    fleet.run(output="other", quorum=1, round_seconds=5)


def test_a_damaged_record_is_an_error(fleet):
    fleet.run(rounds=1)
    path = fleet.root / "run/fleet.json"
    for content in ("{", "[]", "{}", '{"run": 1, "settings": {"x": 1}, "rounds": []}'):
        path.write_text(content)
        with pytest.raises(ArtifactError, match=mentions("fleet.json", "damaged")):
            fleet.run(rounds=1)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.fleet.conftest import Fleet
fleet = Fleet(Path({place!r}), Path({artifacts!r}), [Path(one) for one in {data!r}])
devices = fleet.devices()
def killing(task):
    if task.round == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return devices[1](task)
fleet.run([devices[0], killing], rounds=3, **{options!r})
"""


@pytest.mark.parametrize("options", [{}, {"half": True, "share": "without-norms"}], ids=str)
def test_a_killed_run_goes_on_to_the_same_bits(fleet, options):
    whole = dataclasses.replace(fleet, root=fleet.root / "whole")
    expected = hashes(whole.run(rounds=3, **options))
    code = KILLED.format(
        root=str(Path(__file__).parents[2]),
        place=str(fleet.root),
        artifacts=str(fleet.artifacts),
        data=[str(one) for one in fleet.data],
        options=options,
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, env=os.environ, timeout=120)
    assert done.returncode == -signal.SIGKILL
    said: list[str] = []
    record = fleet.run(rounds=3, say=said.append, **options)
    assert said[0] == "resumed after round 1"
    assert hashes(record) == expected
    for number in range(2):
        kept = [fleet.root, whole.root]
        contents = [(one / f"state{number}/detector.onnx").read_bytes() for one in kept]
        assert contents[0] == contents[1]


def test_a_start_from_other_weights(fleet, tmp_path):
    session = TrainSession.open(fleet.artifacts, threads=1)
    session.step(np.zeros((2, 3, 64, 64), np.uint8), [], lr=0.1)
    session.save(tmp_path / "start.safetensors")
    from exportloss.fleet.configured_server import run_server

    seen = []

    class Watching(InProcess):
        def ask(self, task, nodes, seconds):
            seen.append(task.vectors)
            return [Answer(node=n, result=self._devices[n](task)) for n in nodes]

    values = {
        "artifacts": str(fleet.artifacts),
        "weights": str(tmp_path / "start.safetensors"),
        "output": str(tmp_path / "run"),
        "rounds": 1,
        "local-epochs": 1,
    }
    record = run_server(Watching(fleet.devices()), values)
    fresh = TrainSession.open(fleet.artifacts, threads=1).start_from(tmp_path / "start.safetensors")
    np.testing.assert_array_equal(seen[0].parameters, fresh.weights().parameters)
    assert record.rounds[0].map50 is None
    assert record.best == 1

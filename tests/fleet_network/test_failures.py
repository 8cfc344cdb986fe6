"""What is killed, late or of another model ends in a run, or in an error that says so."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.loopback import BUILD, wait

pytestmark = pytest.mark.slow


def server_apps(loopback) -> list[int]:
    """Processes of the server that run the rounds."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            environment = (entry / "environ").read_bytes()
        except (OSError, ValueError):
            continue
        is_ours = f"FLWR_HOME={loopback.home}\0".encode() in environment
        if is_ours and any(part.endswith("flwr-serverapp") for part in command):
            found.append(int(entry.name))
    return found


def test_a_node_killed_in_mid_round_is_named_and_the_run_ends(loopback):
    loopback.start_server(secure=False)
    loopback.start_node(0)
    loopback.start_node(1)
    loopback.run(rounds=3, quorum=1, **{"round-seconds": 30.0, "join-seconds": 60.0})
    wait(lambda: "Receiving: train" in loopback.log("node1"), about="the first round")
    loopback.kill("node1")
    record = loopback.finished()
    refused = [one["refused"] for one in record["rounds"]]
    assert len(record["rounds"]) == 3
    assert all("camera-0" in one["devices"] for one in record["rounds"])
    (first,) = refused[0].values()
    assert "no answer within 30 s" in first or "Node Unavailable" in first
    assert "node 1" not in {node for one in refused for node in one}


def test_a_server_killed_in_mid_run_goes_on(loopback):
    loopback.start_server(secure=False)
    loopback.start_node(0)
    loopback.start_node(1)
    loopback.run("whole", rounds=3)
    whole = loopback.finished("whole")
    loopback.run("killed", rounds=3)
    wait(lambda: len(loopback.record("killed").get("rounds", ())) >= 1, about="the first round")
    for process in server_apps(loopback):
        os.kill(process, signal.SIGKILL)
    assert not loopback.record("killed")["finished"]
    loopback.kill("server")
    loopback.start_server(secure=False)
    loopback.run("killed", rounds=3)
    killed = loopback.finished("killed")
    assert killed["run"] != whole["run"]
    hashes = [[one["sha256"] for one in record["rounds"]] for record in (whole, killed)]
    assert hashes[0] == hashes[1]


def test_a_quorum_missed_and_another_model_are_said(loopback):
    loopback.start_server(secure=False)
    loopback.start_node(0)
    loopback.start_node(1, artifacts=str(BUILD / "other"))
    shown = " ".join(loopback.run_to_the_end().split())
    assert "round 1 has 1 results, and the quorum is 2" in shown
    assert "camera-1: another model's weights" in shown
    loopback.kill("node1", signal.SIGTERM)
    shown = " ".join(loopback.run_to_the_end("later", **{"join-seconds": 2.0}).split())
    assert "waited 2 s" in shown

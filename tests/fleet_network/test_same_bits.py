"""Deployment, simulation, FLARE and a plain loop average to the same bits."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from exportloss.fleet.configured_server import run_server
from exportloss.fleet.in_process import InProcess
from exportloss.fleet.node import Node, NodeConfig
from tests.support.loopback import BUILD, ROOT, Loopback, free_port


def configs(root: Path) -> list[dict[str, str]]:
    return [
        {
            "name": f"camera-{number}",
            "artifacts": str(BUILD / "artifacts"),
            "data": str(BUILD / f"device{number}" / "data.yaml"),
            "state": str(root / f"own{number}"),
        }
        for number in range(2)
    ]


def hashes(rounds) -> list[str]:
    return [one["sha256"] for one in rounds]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("plain")
    nodes = [Node(NodeConfig.of(values)) for values in configs(root)]
    values = {
        "artifacts": str(BUILD / "artifacts"),
        "data": str(BUILD / "device2" / "data.yaml"),
        "output": str(root / "run"),
        "rounds": 2,
    }
    record = run_server(InProcess([node.handle for node in nodes]), values)
    return [one.sha256 for one in record.rounds]


def write_configs(folder: Path, root: Path, names: list[str]) -> None:
    folder.mkdir()
    for name, values in zip(names, configs(root), strict=True):
        text = "".join(f'{key} = "{value}"\n' for key, value in values.items())
        (folder / f"{name}.toml").write_text(text)


def test_deployment_with_tls_and_keys(loopback, expected):
    loopback.start_server(secure=True)
    for number in range(2):
        loopback.start_node(number)
    # Not admitted: no key that the server knows, no trust in its certificate, and no TLS at all.
    loopback.start_node(2, register=False)
    stranger = ["flower-supernode", "--superlink", f"127.0.0.1:{loopback.port}"]
    stranger += ["--max-retries", "1", "--node-config", 'name="stranger"', "--port"]
    loopback.start("no-ca", [*stranger, str(free_port())])
    loopback.start("no-tls", [*stranger, str(free_port()), "--insecure"])
    loopback.run()
    record = loopback.finished()
    assert hashes(record["rounds"]) == expected
    assert [one["devices"] for one in record["rounds"]] == [["camera-0", "camera-1"]] * 2
    assert set(record["finished"]) == {"camera-0", "camera-1"}
    assert (loopback.root / "run/weights/best.onnx").is_file()
    assert (loopback.root / "state0/detector.onnx").is_file()
    assert "CERTIFICATE_VERIFY_FAILED" in loopback.log("no-ca")
    for name in ("node2", "no-ca", "no-tls"):
        assert "SuperNode ID" not in loopback.log(name)
    assert "Connection attempt failed" in loopback.log("node2")
    assert re.search(r'activate-node HTTP/1\.1" 4', loopback.log("server"))


def test_simulation(loopback, expected, tmp_path):
    write_configs(tmp_path / "nodes", tmp_path, ["0", "1"])
    loopback.env["EXPORTLOSS_FLEET_NODES"] = str(tmp_path / "nodes")
    loopback.start_server(secure=False, simulation=True)
    given = "num-supernodes=2 client-resources-num-cpus=1"
    loopback.run("run", "--federation-config", given)
    assert hashes(loopback.finished()["rounds"]) == expected


def test_flare(expected, tmp_path):
    for path in (ROOT / "examples/flare").glob("*.py"):
        shutil.copy(path, tmp_path)
    write_configs(tmp_path / "nodes", tmp_path, ["site-1", "site-2"])
    (tmp_path / "server.toml").write_text(
        f'artifacts = "{BUILD}/artifacts"\ndata = "{BUILD}/device2/data.yaml"\n'
        f'output = "{tmp_path}/run"\nrounds = 2\n'
    )
    done = subprocess.run(
        [sys.executable, "job.py", "server.toml", "site-1", "site-2"],
        cwd=tmp_path,
        env=os.environ | {"EXPORTLOSS_FLEET_NODES": str(tmp_path / "nodes")},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    record = Loopback.record_in(tmp_path / "run")
    assert record, done.stdout[-3000:] + done.stderr[-3000:]
    assert hashes(record["rounds"]) == expected


def test_the_example_for_flare_is_short():
    lines = [
        line
        for path in (ROOT / "examples/flare").glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    assert len(lines) <= 60

"""A fleet of tiny detectors in one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from exportloss.fleet.in_process import InProcess
from exportloss.fleet.messages import Result, Task
from exportloss.fleet.node import Node, NodeConfig
from exportloss.fleet.record import RunRecord
from exportloss.fleet.server import run_fleet
from exportloss.fleet.settings import FleetSettings
from exportloss.runtime import TrainSession
from exportloss.runtime.data.dataset import read_data_yaml
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.tiny_runs import make_tiny_shapes

Device = Callable[[Task], Result]


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Two devices and a server, whose files are in `root`."""

    root: Path
    artifacts: Path
    data: Sequence[Path]

    def config(self, number: int, **changes: object) -> NodeConfig:
        values = {
            "name": f"camera-{number}",
            "artifacts": str(self.artifacts),
            "data": str(self.data[number]),
            "state": str(self.root / f"state{number}"),
        }
        return NodeConfig.of(values | changes)

    def node(self, number: int, **changes: object) -> Node:
        return Node(self.config(number, **changes))

    def devices(self) -> list[Device]:
        return [self.node(number).handle for number in range(2)]

    def server(self) -> TrainSession:
        return TrainSession.open(self.artifacts, threads=1, evaluation_only=True)

    def run(
        self,
        devices: Sequence[Device] | None = None,
        *,
        output: str = "run",
        network: object = None,
        say: Callable[[str], object] = lambda _: None,
        **settings: object,
    ) -> RunRecord:
        given = {"rounds": 2, "join_seconds": 0.1} | settings
        return run_fleet(
            network or InProcess(self.devices() if devices is None else devices),
            FleetSettings.of(given),
            session=self.server(),
            data=read_data_yaml(self.data[2]),
            folder=RunFolder.create(self.root, output, exist_ok=True),
            say=say,
        )


@pytest.fixture(scope="session")
def fleet_data(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("fleet")
    return [make_tiny_shapes(root / f"device{n}", seed=n) for n in range(3)]


@pytest.fixture
def fleet(tmp_path, tiny_artifact, fleet_data) -> Fleet:
    return Fleet(tmp_path, tiny_artifact, fleet_data)

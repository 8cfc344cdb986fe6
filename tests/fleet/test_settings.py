"""Settings of a run and of devices, and the project's file."""

from __future__ import annotations

import dataclasses
import tomllib

import numpy as np
import pytest

from exportloss import ArtifactError, ConfigError
from exportloss.cli import main
from exportloss.fleet.configured_server import ServerConfig
from exportloss.fleet.messages import Task, Vectors
from exportloss.fleet.node import NodeConfig
from exportloss.fleet.settings import FleetSettings
from tests.support.messages import mentions

VECTORS = Vectors(parameters=np.zeros(1, np.float32), statistics=np.zeros(0), digest="d")
TASK = {
    **{"action": "train", "run": "0" * 16, "round": 1, "share": "all", "local_epochs": 1},
    **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "proximal": 0.0, "half": False},
    **{"calibrate": True, "seed": 0, "start": "", "vectors": VECTORS},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 0),
        ("rounds", 2.5),
        ("rounds", True),
        ("lr", -1),
        ("lr", float("nan")),
        ("lr", "0.1"),
        ("lrf", 1.1),
        ("momentum", 1.0),
        ("proximal", -0.1),
        ("half", 1),
        ("share", 3),
        ("quorum", 0),
        ("round_seconds", 0),
    ],
)
def test_bad_settings_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        FleetSettings.of({name.replace("_", "-"): value})


def test_keys_of_others_are_ignored_and_dashes_are_underscores():
    found = FleetSettings.of({"local-epochs": 3, "artifacts": "x", "lr": 1})
    assert (found.local_epochs, found.lr) == (3, 1)


def test_the_rate_falls_along_a_cosine():
    settings = FleetSettings(rounds=5, lr=0.1, lrf=0.2)
    rates = [settings.rate(number) for number in range(1, 6)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[2] == pytest.approx(0.06)
    assert rates[-1] == pytest.approx(0.02)
    assert FleetSettings(rounds=1, lr=0.1).rate(1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "../../etc/passwd"),
        ("run", 3),
        ("start", 3),
        ("round", -1),
        ("round", 1.5),
        ("round", True),
        ("local_epochs", 10**9),
        ("lr", float("inf")),
        ("lr", "1"),
        ("action", "delete"),
    ],
)
def test_tasks_of_a_hostile_server_are_refused(name, value):
    with pytest.raises(ConfigError, match=mentions(str(value)[:40])):
        Task(**TASK | {name: value})


def test_a_task_carries_no_path():
    assert {f.name for f in dataclasses.fields(Task)} == set(TASK)
    texts = {f.name for f in dataclasses.fields(Task) if f.type in ("str", str)}
    assert texts == {"run", "share", "start"}


@pytest.mark.parametrize("missing", ["name", "artifacts", "data", "state"])
def test_a_node_without_its_own_paths_is_told_how_to_start(missing):
    values = {"name": "a", "artifacts": "b", "data": "c", "state": "d"}
    del values[missing]
    with pytest.raises(ConfigError, match=mentions(f"lacks {missing}", "--node-config")):
        NodeConfig.of(values)
    with pytest.raises(ConfigError, match="threads"):
        NodeConfig.of({**values, missing: "e", "threads": "two"})


def test_a_server_without_paths_is_told_which():
    with pytest.raises(ConfigError, match=mentions("artifacts", "output", "--run-config")):
        ServerConfig.of({"rounds": 1})


def test_the_command_writes_one_file_with_every_setting(tmp_path, capsys):
    folder = tmp_path / "new"
    assert main(["fleet", "new", str(folder)]) == 0
    assert [path.name for path in folder.iterdir()] == ["pyproject.toml"]
    assert str(folder / "pyproject.toml") in capsys.readouterr().out
    values = tomllib.loads((folder / "pyproject.toml").read_text())
    config = values["tool"]["flwr"]["app"]["config"]
    assert FleetSettings.of(config) == FleetSettings()
    fields = {f.name.replace("_", "-") for f in dataclasses.fields(FleetSettings)}
    assert set(config) == fields | {"artifacts", "data", "weights", "output"}
    components = values["tool"]["flwr"]["app"]["components"]
    assert all(name.startswith("exportloss.fleet.") for name in components.values())


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "secret.txt").write_text("")
    with pytest.raises(ArtifactError, match=mentions(str(tmp_path), "secret.txt")):
        from exportloss.fleet.project import new_project

        new_project(tmp_path)
    assert main(["fleet", "new", str(tmp_path)]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["secret.txt"]

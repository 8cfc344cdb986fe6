"""`kill -9` at random moments: what is left is whole, and resumes to the same bits."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exportloss.runtime.training.run_folder import RunFolder
from tests.support.training_runs import assert_same_run

KILLS = 4
LONGEST = 3.0  # seconds: start-up, and a few epochs
EPOCHS = 20


@pytest.fixture
def command(tiny_artifact, tiny_shapes):
    """Start the training command on a run of the given folder."""

    def start(folder: Path) -> subprocess.Popen:
        arguments = ["--weights", tiny_artifact, "--data", tiny_shapes, "--epochs", EPOCHS]
        arguments += ["--project", folder.parent, "--name", folder.name, "--exist-ok"]
        if (folder / "opt.yaml").exists():  # the run has begun
            arguments = ["--resume", folder]
        return subprocess.Popen(
            [sys.executable, "-m", "exportloss", "train", *map(str, arguments), "--threads", "1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_a_run_that_is_killed_again_and_again_is_the_uninterrupted_one(command, tmp_path):
    whole = RunFolder(tmp_path / "whole")
    _, errors = command(whole.path).communicate()
    assert whole.best_onnx.exists(), errors
    moments = random.Random(0)
    killed = RunFolder(tmp_path / "0")
    for number in range(1, KILLS + 1):
        process = command(killed.path)
        time.sleep(moments.uniform(0, LONGEST))
        process.kill()
        _, errors = process.communicate()
        assert not errors, errors
        if killed.best_onnx.exists():  # done before it could be killed: once more
            assert_same_run(killed, whole)
            killed = RunFolder(tmp_path / str(number))
    process = command(killed.path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_same_run(killed, whole)


def found_by(module: str, kills: int, artifact: Path, data: Path) -> dict:
    """Run a module that kills, which is to find nothing lost; return its counts."""
    command = [sys.executable, "-m", module, "--kills", str(kills), "--seed", "1"]
    command += ["--artifact", str(artifact), "--data", str(data)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_nothing_is_lost_in_a_kill(tiny_artifact, tiny_shapes):
    """A few of the kills of `python -m tests.support.kills.writers`, over writers and trainings."""
    found = found_by("tests.support.kills.writers", 16, tiny_artifact, tiny_shapes)
    assert found["writer"]["kills"] + found["training"]["kills"] == 16
    assert found["training"]["finished"] >= 1


def test_commands_that_are_killed_leave_whole_files(tiny_artifact, tiny_shapes):
    """A few of the kills of `python -m tests.support.kills.commands`."""
    found = found_by("tests.support.kills.commands", 8, tiny_artifact, tiny_shapes)
    assert {name: one["kills"] for name, one in found.items()} == dict.fromkeys(found, 2)
    assert len(found) == 4

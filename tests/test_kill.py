"""`kill -9` at random moments: what is left always resumes, to the same bits."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exportloss.runtime.run_folder import RunFolder
from tests.training_runs import assert_same_run

KILLS = 20
LONGEST = 3.0  # seconds: start-up, and a few epochs
EPOCHS = 20


@pytest.fixture
def command(step_artifact, shapes):
    """Start the training command on a run of the given folder."""

    def start(folder: Path) -> subprocess.Popen:
        arguments = ["--weights", step_artifact, "--data", shapes, "--epochs", EPOCHS]
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

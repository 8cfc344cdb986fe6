"""`mpiexec -n N exportloss train --distributed mpi`: really several processes, really MPI."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MPIEXEC = Path(sys.executable).with_name("mpiexec")
ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds, on a loaded machine
# Updates after 1, 3 and then always 4 batches.
SHORT = ("--epochs", 2, "--nominal-batch", 400, "--noplots")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "exportloss", "train", *map(str, arguments)]


def start(*programs: tuple[int, Sequence[str]]) -> subprocess.Popen[str]:
    """Start programs as ranks of one training, each so many times."""
    words: list[str] = []
    for count, program in programs:
        words += [*([":"] if words else []), "-n", str(count), *program]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(MPIEXEC), *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*programs: tuple[int, Sequence[str]]) -> tuple[int, str, str]:
    with start(*programs) as process:
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


def options(artifact: Path, data: Path, project: Path, name: str) -> tuple[object, ...]:
    sources = ("--weights", artifact, "--data", data)
    return (*sources, *SHORT, "--project", project, "--name", name)


def alone(*arguments: object) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command(*arguments), env=environment, check=True, capture_output=True)


def assert_same_files(one: Path, other: Path) -> None:
    for name in ("results.csv", "weights/last.onnx", "weights/best.onnx"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def children(pid: int) -> list[int]:
    """Return the processes below a process, of Linux."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, found) for each in (child, *children(child))]


def test_four_processes_train_as_one(device, data, tmp_path):
    mpi = ("--distributed", "mpi")
    alone(*options(device / "adamw", data, tmp_path, "one"))
    status, out, err = run((4, command(*options(device / "adamw", data, tmp_path, "four"), *mpi)))
    assert (status, err) == (0, "")
    assert out.count("epoch 1/1") == 1  # one rank prints
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "four", "one"]
    assert_same_files(tmp_path / "one", tmp_path / "four")


def test_other_data_on_a_rank_are_noticed_before_training(device, data, other_data, tmp_path):
    ranks = (
        (1, command(*options(device / "sgd", each, tmp_path, "exp"), "--distributed", "mpi"))
        for each in (data, other_data)
    )
    status, _, err = run(*ranks)
    assert status == 2
    (said,) = re.findall(r"error: (.*)", err)  # once, by one of them
    assert re.search(r"rank 1 of 2.*training data", said)
    assert not list(tmp_path.iterdir())


def test_a_killed_rank_ends_all_and_the_run_resumes_to_the_same_bits(device, data, tmp_path):
    mpi = ("--distributed", "mpi")
    longer = ("--epochs", 4)
    alone(*options(device / "sgd", data, tmp_path, "whole"), *longer)
    program = command(*options(device / "sgd", data, tmp_path, "cut"), *longer, *mpi)
    with start((2, program)) as process:
        deadline = time.monotonic() + PATIENCE
        while not (tmp_path / "cut" / "weights" / "last.safetensors").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ranks = [pid for pid in children(process.pid) if "exportloss" in _words(pid)]
        os.kill(max(ranks), signal.SIGKILL)
        process.communicate(timeout=PATIENCE)
        assert process.returncode != 0
    assert not (tmp_path / "cut" / "weights" / "best.onnx").exists()
    status, _, err = run((2, command("--resume", tmp_path / "cut", "--noplots", *mpi)))
    assert (status, err) == (0, "")
    assert_same_files(tmp_path / "whole", tmp_path / "cut")


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []

"""The example program fine-tunes on a folder of raw images, and goes on after an interruption."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime import TrainSession
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.training.schedule import Schedule

IMAGES, SIDES = 5, (40, 64)


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Folder of noise with a bright box per image, as PPM, and labels; one has no label file."""
    folder = tmp_path / "images"
    folder.mkdir()
    height, width = SIDES
    for index in range(IMAGES):
        pixels = rng.integers(0, 128, (height, width, 3), dtype=np.uint8)
        pixels[10:30, 16:48] = 255
        header = f"P6\n# image {index}\n{width} {height}\n255\n".encode()
        (folder / f"{index}.ppm").write_bytes(header + pixels.tobytes())
        if index:
            (folder / f"{index}.txt").write_text(f"{index % 3} 0.5 0.5 0.5 0.5\n")
    return folder


@pytest.fixture
def program(pytestconfig: pytest.Config) -> str:
    """Path of the example program."""
    return str(Path(pytestconfig.getoption("--build")) / "examples" / "finetune" / "finetune")


def test_an_interrupted_run_ends_as_an_uninterrupted_one(program, artifacts, images, tmp_path):
    folder = artifacts / "sgd"
    command = [program, folder, images]
    options = ["--epochs", "2", "--lr0", "0.001"]
    whole, begun = tmp_path / "whole", tmp_path / "begun"

    done = subprocess.run([*command, whole, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[0] for line in done.stdout.splitlines()]
    assert lines == ["start:", "epoch", "epoch", "end:"]

    state = begun / "state.safetensors"
    interrupted = [*command, begun, *options]
    with subprocess.Popen(interrupted, stdout=subprocess.DEVNULL) as process:
        while not state.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    subprocess.run([*interrupted, "--resume", "1"], capture_output=True, check=True)
    assert state.read_bytes() == (whole / state.name).read_bytes()

    session = TrainSession.open(folder, threads=1).resume(state)
    schedule = Schedule(epochs=2, batches=2, batch_size=session.manifest.batch_size)
    due = sum(step.update for epoch in range(2) for step in schedule.steps(epoch))
    assert session.updates + session.skipped == due
    Detector.open(begun / "detector.onnx", threads=1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("3.ppm", b"P6 9 9 255 \0", r"3\.ppm has 12 bytes; expected \d+"),
        ("3.txt", b"0 0.5 0.5 0.5 0.5\n7 0.5 0.5 0.5 0.5\n", r"3\.txt:2: class '7'"),
    ],
)
def test_a_bad_file_is_named(program, artifacts, images, name, content, message):  # noqa: PLR0917
    (images / name).write_bytes(content)
    command = [program, artifacts / "sgd", images, images / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(message, done.stderr)


def failed(*command: object) -> str:
    """Run a command that has to fail, and return what it says."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--epochs", value) for value in ("1e300", "0.5", "", "1x")),
        *(("--threads", "inf"), ("--lr0", "nan"), ("--epoch", "1")),
    ],
)
def test_a_bad_option_is_named(program, artifacts, images, option, value):
    said = failed(program, artifacts / "sgd", images, images / "out", option, value)
    assert option in said
    assert not (images / "out" / "state.safetensors").exists()


def test_too_many_boxes_are_refused_before_the_first_step(program, artifacts, images, tmp_path):
    lines = (f"0 {0.1 + i / 200} 0.5 0.1 0.1\n" for i in range(100))
    (images / "3.txt").write_text("".join(lines))
    said = failed(program, artifacts / "sgd", images, tmp_path / "out")
    assert re.search(r"a batch may have 101 boxes, the artifacts take \d+; export with", said)


def test_folders_without_images_are_named(program, artifacts, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no .ppm images" in failed(program, artifacts / "sgd", tmp_path / "empty", tmp_path)
    assert "nowhere" in failed(program, artifacts / "sgd", tmp_path / "nowhere", tmp_path)

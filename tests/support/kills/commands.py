"""`kill -9` at random moments over the commands that write, each in a process of its own.

    python -m tests.support.kills.commands --kills 100

The processes are forked from one that has imported all they need, or many kills would come before
a command has begun. Half of the kills come at any moment, half after the first file was begun. What
is left is read: every file under its own name is whole, and what the command reads is as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkProcess
from pathlib import Path

from exportloss.__main__ import main as run
from exportloss.errors import ExportLossError
from exportloss.runtime.artifact.check import read_artifact
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.artifact.tensor_file import read_tensor_file
from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.images.load import load_image
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder, read_yaml
from exportloss.runtime.training.run_log import read_log
from tests.support.kills.inputs import add_input_arguments, find_inputs
from tests.support.preload import preload
from tests.support.training_runs import assert_same_run

TICK, FOREVER = 0.001, 600.0  # seconds
MOST_LEFT = 4  # temporary files of killed writers: one a name that is written at a time
CLASSES = 3
EPOCHS = 12


def _read_tensors(path: Path) -> None:
    if path.parent.name == "weights":
        load_state(path)
    read_tensor_file(path)


READERS: dict[str, Callable[[Path], object]] = {
    ".jpg": load_image,
    ".png": load_image,
    ".txt": lambda path: read_labels(path, CLASSES),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".onnx": read_onnx,
    ".safetensors": _read_tensors,
    ".csv": read_results,
    ".yaml": read_yaml,
    ".jsonl": read_log,
    ".exportloss": Path.read_bytes,  # for TensorBoard, which takes a last record cut short
}


@dataclasses.dataclass(kw_only=True)
class Found:
    """What the kills of one command came to.

    Attributes:
        kills: commands that were killed at work.
        finished: commands that came to their end before they could be.
        unreadable: files that could not be read afterwards.
        changed: inputs that were not what they had been.
        different: trainings that, resumed to their end, were not the uninterrupted one.
        most_left: temporary files that lay about at once, at most.
    """

    kills: int = 0
    finished: int = 0
    unreadable: int = 0
    changed: int = 0
    different: int = 0
    most_left: int = 0


@dataclasses.dataclass(frozen=True)
class Job:
    """A command: its arguments, and the folder that it writes."""

    arguments: Callable[[], list[str]]
    output: Path


def jobs(artifact: Path, data: Path, root: Path) -> dict[str, Job]:
    """Return the commands to kill, each of which takes a few seconds at most."""
    output = {name: root / name for name in ("export", "train", "detect", "val")}

    def at(name: str) -> list[str]:
        return ["--project", str(root), "--name", name, "--exist-ok", "--threads", "1"]

    def train() -> list[str]:
        run = RunFolder(output["train"])
        if run.options.exists():
            return ["train", "--resume", str(run.path), "--threads", "1"]
        read = ["--weights", str(artifact), "--data", str(data), "--epochs", str(EPOCHS)]
        return ["train", *read, *at("train")]

    images = data.parent / "images" / "train"
    save = ["--save-txt", "--save-json"]
    detect = ["detect", "--weights", str(artifact), "--source", str(images), "--save-crop"]
    detect += ["--conf-thres", "0.001", *save, *at("detect")]
    val = ["val", "--weights", str(artifact), "--data", str(data), *save, *at("val")]
    export = ["export", "--weights", "yolov5n", "--nc", "3", "--imgsz", "64", "--max-targets", "8"]
    export += ["--format", "loss,safetensors", "--exist-ok", "--output", str(output["export"])]
    return {
        "export": Job(lambda: export, output["export"]),
        "train": Job(train, output["train"]),
        "detect": Job(lambda: detect, output["detect"]),
        "val": Job(lambda: val, output["val"]),
    }


def kill_command(
    job: Job, inputs: list[Path], kills: int, moments: random.Random, whole: Path | None = None
) -> Found:
    """Kill a command again and again, and read what it has left.

    Args:
        job: what to run.
        inputs: folders that it reads.
        kills: how often.
        moments: when.
        whole: of a training, the run that was never killed.
    """
    found, before = Found(), _hashes(inputs)
    longest, first_write = _time(job)
    if whole is not None:
        job.output.rename(whole)
    number = 0
    while found.kills < kills or (whole is not None and not found.finished):
        number += 1
        after = None if number % 2 else moments.uniform(0, max(longest - first_write, 0.05))
        seconds = moments.uniform(0, longest) if after is None else FOREVER
        if found.kills == kills:  # a training comes to its end
            after, seconds = None, FOREVER
        ended = _run(job, seconds, after_write=after)
        found.kills += not ended
        found.finished += ended
        found.unreadable += sum(_unreadable(job.output))
        if whole is not None and ended:
            try:
                assert_same_run(RunFolder(job.output), RunFolder(whole))
            except AssertionError as error:
                print(error, file=sys.stderr)
                found.different += 1
            job.output.rename(whole.with_name(f"{job.output.name}-{number}"))
        if job.output.exists():
            left = [path for path in job.output.rglob(".*.tmp") if path.parent.is_dir()]
            left += list(job.output.parent.glob(f".{job.output.name}-*.tmp"))
            found.most_left = max(found.most_left, len(left))
    found.changed = sum(_hashes(inputs)[path] != digest for path, digest in before.items())
    return found


def _time(job: Job) -> tuple[float, float]:
    """Run a command to its end; return how long it took, and how long until it began to write."""
    started, first = time.monotonic(), 0.0
    with _started(job) as process:
        while process.exitcode is None:
            if not first and _writes(job):
                first = time.monotonic() - started
            time.sleep(TICK)
    assert process.exitcode == 0, process.exitcode
    return time.monotonic() - started, first


def _run(job: Job, seconds: float, *, after_write: float | None) -> bool:
    """Run a command and kill it after so long, or so long after it began to write; if it ended."""
    started = time.monotonic()
    before = _state(job)
    with _started(job) as process:
        while process.exitcode is None:
            waited = time.monotonic() - started
            if after_write is not None and _state(job) != before:
                started, seconds, after_write = time.monotonic(), after_write, None
            elif waited > seconds:
                process.kill()
            time.sleep(TICK)
    # A training that was killed when all was done says that it is complete.
    was_done = process.exitcode == 2 and RunFolder(job.output).best_onnx.exists()
    if process.exitcode not in (0, -9) and not was_done:
        raise AssertionError(f"{job.arguments()} ended with {process.exitcode}")
    return process.exitcode != -9


@contextlib.contextmanager
def _started(job: Job) -> Iterator[ForkProcess]:
    process = multiprocessing.get_context("fork").Process(target=_work, args=(job.arguments(),))
    process.start()
    try:
        yield process
    finally:
        process.join()


def _work(arguments: list[str]) -> None:
    """Be the command, in a process of its own."""
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123  # as a device, not a path
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    sys.argv = ["exportloss", *arguments]
    sys.exit(run())


def _writes(job: Job) -> bool:
    return bool(_state(job))


def _state(job: Job) -> set[tuple[str, int]]:
    """What is in the place that a command writes, and when it was changed."""
    folders = [job.output.parent, job.output, *(job.output / name for name in ("weights", "loss"))]
    state = set()
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(folder):
                if folder != job.output.parent or job.output.name in entry.name:
                    with contextlib.suppress(FileNotFoundError):
                        state.add((entry.path, entry.stat(follow_symlinks=False).st_mtime_ns))
    return state


def _unreadable(output: Path) -> Iterator[int]:
    """Read every file under its own name; yield a 1 for each that cannot be."""
    for path in output.rglob("*"):
        try:
            if path.name.startswith(".") or path.parent.name.startswith("."):
                continue
            if (path / MANIFEST_NAME).exists():
                read_artifact(path)
            elif path.is_file():
                READERS[path.suffix](path)
        except (ExportLossError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            yield 1


def _hashes(inputs: list[Path]) -> dict[Path, str]:
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in inputs
        for path in folder.rglob("*")
        if path.is_file()
    }


def main(arguments: list[str] | None = None) -> int:
    """Kill each command as often; print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", default=["export", "train", "detect", "val"])
    add_input_arguments(parser)
    options = parser.parse_args(arguments)
    preload()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact, data = find_inputs(options, folder)
        found = {}
        for number, command in enumerate(options.commands):
            share, more = divmod(options.kills, len(options.commands))
            (root := folder / f"of-{command}").mkdir()
            job = jobs(artifact, data, root)[command]
            found[command] = kill_command(
                job,
                [artifact, data.parent],
                share + (number < more),
                random.Random(options.seed),
                whole=root / "whole" if command == "train" else None,
            )
    print(json.dumps({name: vars(one) for name, one in found.items()}, indent=1))
    bad = (one.unreadable + one.changed + one.different for one in found.values())
    too_many = any(one.most_left > MOST_LEFT for one in found.values())
    return 1 if sum(bad) or too_many else 0


if __name__ == "__main__":
    sys.exit(main())

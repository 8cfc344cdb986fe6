"""`kill -9` at random moments over a writer of files and over a training; what is left is judged.

    python -m tests.support.kills.writers --kills 200

Children are forked from a process that has imported all they need, so that a round takes a
fraction of a second, and nearly all of it is work that can be interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from exportloss.errors import ExportLossError
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.check import read_artifact
from exportloss.runtime.artifact.folder import new_folder, write_artifact
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.artifact.state import TrainState, load_state, save_state
from exportloss.runtime.sessions.installation import import_onnxruntime
from exportloss.runtime.storage import replacing
from exportloss.runtime.training.results import EpochResult, read_results
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from tests.support.kills.inputs import add_input_arguments, find_inputs
from tests.support.training_runs import CONFIG, Run, assert_same_run, make_run

EPOCHS = 10
TICK, FOREVER = 0.001, 600.0  # seconds
WRITES = 4  # the longest until the kill, as long as they take here
MOST_LEFT = 3  # a temporary folder, a temporary state, a folder set aside

Report = Callable[[], object]


@dataclasses.dataclass(kw_only=True)
class Found:
    """What the kills came to.

    Attributes:
        kills: children that were killed at work.
        unreadable: files and folders that could not be read afterwards.
        lost: epochs or writes that had been reported as done and were gone.
        different: finished runs that are not, bit for bit, the uninterrupted one.
        finished: runs that came to their end.
    """

    kills: int = 0
    unreadable: int = 0
    lost: int = 0
    different: int = 0
    finished: int = 0


def kill_after(seconds: float, work: Callable[[Report], None]) -> tuple[int, bool]:
    """Fork a child that works, and kill it; return how often it reported, and if it had ended."""
    reading, writing = os.pipe()
    child = _fork(lambda: work(lambda: os.write(writing, b".")))
    os.close(writing)
    ends = time.monotonic() + seconds
    while not (found := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < ends:
        time.sleep(TICK)
    status = found[1]
    if not found[0]:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as reports:
        count = len(reports.read())
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise AssertionError("the child failed; see above")
    return count, os.WIFEXITED(status)


def kill_writers(artifact: Path, folder: Path, kills: int, moments: random.Random) -> Found:
    """Kill what replaces a folder of artifacts and a state, again and again."""
    found, source = Found(), Manifest.read(artifact)
    target, state = folder / "artifacts", folder / "state.safetensors"

    def write(generation: int) -> None:
        with new_folder(target, exist_ok=True) as temporary:
            for name in source.files:
                shutil.copyfile(artifact / name, temporary / name)
            write_artifact(temporary, dataclasses.replace(source, model=str(generation)))
        numbers = np.full(1000, generation, np.float32)
        save_state(
            state,
            TrainState(model={"w": numbers}, optimizer={}, loss={}, updates=generation),
        )

    def work(generation: int, report: Report) -> None:
        while True:
            write(generation)
            report()
            generation += 1

    started = time.monotonic()
    write(0)
    longest = WRITES * (time.monotonic() - started)
    held = {"artifact": 0, "state": 0}
    for number in range(kills):
        first = max(held.values()) + 1
        with exchanging(number % 2 == 0):  # and as on systems that cannot
            count, _ = kill_after(moments.uniform(0, longest), functools.partial(work, first))
        found.kills += 1
        for name, read in (
            ("artifact", lambda: int(read_artifact(target).model)),
            ("state", lambda: load_state(state).updates),
        ):
            try:
                written = read()
            except ExportLossError as error:
                print(error, file=sys.stderr)
                found.unreadable += 1
                continue
            found.lost += written < (first + count - 1 if count else held[name])
            held[name] = written
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        if len(left) > MOST_LEFT:
            raise AssertionError(f"killed writers leave more and more: {left}")
    return found


@contextlib.contextmanager
def exchanging(possible: bool) -> Iterator[None]:
    """Let folders be exchanged in one step, or not."""
    exchange = replacing._exchange
    if not possible:
        replacing._exchange = lambda *_: False
    try:
        yield
    finally:
        replacing._exchange = exchange


def kill_trainings(
    artifact: Path, data: Path, folder: Path, kills: int, moments: random.Random
) -> Found:
    """Kill a training and resume it; where it comes to its end, compare it and begin anew."""
    found = Found()

    def new_run(name: str) -> Run:
        run = make_run(data, folder / name)
        schedule = Schedule(epochs=EPOCHS, batches=4, batch_size=2, config=CONFIG, nominal_batch=4)
        return run.but(schedule=schedule)

    def work(run: Run, report: Report) -> None:
        session = TrainSession.open(artifact, threads=1)
        run.train(session, resume=True, reporter=Reporter(report))

    whole, started = new_run("whole"), time.monotonic()
    os.waitpid(_fork(lambda: work(whole, lambda: None)), 0)
    longest = time.monotonic() - started
    run, done = new_run("0"), 0
    while found.kills < kills or done or not found.finished:  # the last one comes to its end
        seconds = moments.uniform(0, longest) if found.kills < kills else FOREVER
        started, is_new = time.monotonic(), done == 0
        count, ended = kill_after(seconds, functools.partial(work, run))
        if ended and is_new:  # the machine has become faster: kill earlier
            longest = time.monotonic() - started
        found.kills += not ended
        kept = _epochs_kept(run.folder, run.schedule, found)
        found.lost += max(done + count - kept, 0)
        done = kept
        if ended:
            found.finished += 1
            try:
                assert_same_run(run.folder, whole.folder)
            except AssertionError as error:
                print(error, file=sys.stderr)
                found.different += 1
            run, done = new_run(str(found.finished)), 0
    return found


class Reporter:
    """Reports every epoch once it is saved."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def batch_done(self, *_: object) -> None: ...

    def start_done(self, result: EpochResult) -> None: ...

    def epoch_done(self, result: EpochResult, is_best: bool) -> None:
        self.report()


def _epochs_kept(folder: RunFolder, schedule: Schedule, found: Found) -> int:
    """Read all that a run has written; return the epochs that its state holds."""
    kept = 0
    for path, read in (
        (folder.best, load_state),
        (folder.last, load_state),
        (folder.best_onnx, read_onnx),
        (folder.last_onnx, read_onnx),
        (folder.results, read_results),
    ):
        try:
            content = read(path) if path.exists() else None
        except ExportLossError as error:
            print(error, file=sys.stderr)
            found.unreadable += 1
            continue
        if path == folder.last and isinstance(content, TrainState):
            kept = schedule.epochs_done(content.updates) or 0
    return kept


def _fork(work: Callable[[], object]) -> int:
    """Start a child that works; return its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


def main(arguments: list[str] | None = None) -> int:
    """Kill, half of the time each; print what was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    add_input_arguments(parser)
    options = parser.parse_args(arguments)
    moments = random.Random(options.seed)
    import_onnxruntime()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        artifact, data = find_inputs(options, folder)
        for part in ("writer", "training"):
            (folder / part).mkdir()
        writers = kill_writers(artifact, folder / "writer", options.kills // 2, moments)
        kills = options.kills - options.kills // 2
        trainings = kill_trainings(artifact, data, folder / "training", kills, moments)
    found = {"seed": options.seed}
    found |= {"writer": vars(writers), "training": vars(trainings)}
    print(json.dumps(found, indent=1))
    bad = (one.unreadable + one.lost + one.different for one in (writers, trainings))
    return 1 if sum(bad) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run everything that needs an NVIDIA GPU, and record the results: `make gpu`.

    python benchmarks/gpu.py [--output FOLDER] [--minutes N] [--device cuda|cpu]

Tests of `tests/gpu`, benchmarks and a training in each precision, in the interpreter that runs
this file: torch 2.11 or later, pytest and exportloss; onnxruntime-gpu for the artifacts. What is
exported is kept in `build/gpu`; onnx is not needed where that was copied from a machine on which
`make gpu-artifacts` was run. Steps run in order of value, each within a time of its own, and a step
that fails ends no other. Each leaves its output in FOLDER as soon as it is done. Where there is no
NVIDIA GPU, this says so and does nothing; `--device cpu` tries the whole way on the CPU, at small
sizes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "build" / "gpu"
RESULTS = ROOT / "benchmarks" / "results"

# Options of the benchmarks, by the name of a run.
SIZES = {"weights": "yolov5n", "nc": 80, "imgsz": 640, "max-targets": 300, "targets": 120}
RUNS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    **{
        f"{bench}-{batch}": (bench, SIZES | {"batch-size": batch})
        for batch in (16, 64)
        for bench in ("step", "loss")
    },
    **{
        f"step-16-{precision}": ("step", SIZES | {"batch-size": 16, "precision": precision})
        for precision in ("tf32", "float16", "bfloat16")
    },
}
_SMALL = {"imgsz": 64, "max-targets": 16, "targets": 8, "batch-size": 2}  # on a CPU
_SLOW = "compiled"  # the implementation that takes minutes to prepare
_OF_STEPS = ("eager", "eager-channels-last", "portable", "portable-cuda-graph")
_OF_LOSSES = ("eager", "static", "cuda-graph", "portable")
_NAME = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
_ABOUT = """
import json, platform, torch, onnxruntime as ort
getattr(ort, "preload_dlls", lambda: None)()
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__,
    "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
    "onnxruntime": ort.__version__, "providers": ort.get_available_providers()}, indent=1))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """A command, and how long it may take.

    Attributes:
        name: Name of its files.
        arguments: Arguments of this interpreter.
        seconds: Time limit, if the time is limited.
        background: Whether later steps may begin before it is done, up to one that needs it.
        needs: Name of such a step that must be done first.
    """

    name: str
    arguments: Sequence[str]
    seconds: int
    background: bool = False
    needs: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """End of a step: its exit status, None if its time or all time was used up."""

    name: str
    status: int | None
    seconds: float


def steps(device: str) -> list[Step]:
    """Return all steps, the most valuable first."""
    tests = ("-m", "pytest", "-p", "no:cacheprovider", "-q", "-ra", "--durations=10")
    exports = ("-m", "tests.gpu.make_artifacts", str(ARTIFACTS), "--device", device)
    artifacts, torch_alone = "tests/gpu/test_artifacts.py", "tests/gpu/test_loss_in_torch.py"
    benches = {run: _bench(run, device) for run in RUNS}
    others = {run: benches.pop(run) for run in RUNS if run.count("-") == 2}  # precisions
    made = (ARTIFACTS / "expected.json").is_file()
    export = Step(name="artifacts", arguments=exports, seconds=240, background=True)
    return [
        Step(name="about", arguments=("-c", _ABOUT), seconds=30),
        *(() if made else (export,)),
        Step(name="torch", arguments=(*tests, torch_alone, "-k", "not compiled"), seconds=60),
        Step(name="parity", arguments=(*tests, artifacts), seconds=150, needs="artifacts"),
        *(Step(name=run, arguments=options, seconds=90) for run, options in benches.items()),
        Step(name="profile", arguments=_profile(device), seconds=60),
        *(Step(name=run, arguments=options, seconds=60) for run, options in others.items()),
        Step(name="training", arguments=_training(device), seconds=120),
        Step(name="compiled", arguments=(*tests, torch_alone, "-k", "compiled"), seconds=120),
        *(
            Step(name=f"{run}-compiled", arguments=options, seconds=240)
            for run in ("loss-16", "step-16")
            for options in [_bench(run, device, "eager", _SLOW)]
        ),
    ]


def sizes_of(run: str, device: str) -> dict[str, Any]:
    """Return the size options of a benchmark, by name."""
    return {**RUNS[run][1], **(_SMALL if device == "cpu" else {})}


def _bench(run: str, device: str, *implementations: str) -> tuple[str, ...]:
    bench, on_gpu = RUNS[run][0], device != "cpu"
    implementations = implementations or (_OF_LOSSES if bench == "loss" else _OF_STEPS)
    return (
        *("-m", "exportloss", "bench", bench, "--device", device, "--json"),
        *(f"--{name}={value}" for name, value in sizes_of(run, device).items()),
        *("--artifacts", str(ARTIFACTS / run), "--rivals", ",".join(implementations)),
        *(("--rounds", "10", "--steps", "5") if on_gpu else ("--rounds", "1", "--steps", "1")),
    )


def _profile(device: str) -> tuple[str, ...]:
    return ("-m", "benchmarks.gpu_profile", str(ARTIFACTS / "step-16" / "step"), "--device", device)


def _training(device: str) -> tuple[str, ...]:
    few = ("--precisions", "float32", "--epochs", "1", "--images", "16")
    folder = str(ARTIFACTS / "training")
    where = ("-m", "benchmarks.gpu_training", folder, "--device", device)
    return (*where, *(few if device == "cpu" else ()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps; return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu-day")
    parser.add_argument("--minutes", type=float, help="for all of it (default: no limit)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--steps", type=lambda text: text.split(","), help="only these")
    options = parser.parse_args(arguments)
    name = "CPU"
    if options.device == "cuda":
        listed = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
        name = _output(sys.executable, "-c", _NAME)
        if not name and not listed:
            print("No NVIDIA GPU here: nothing was run. See docs/cuda.md.")
            return 0
        if not name:
            print(
                f"There is {listed.splitlines()[0]}, but torch of {sys.executable} cannot use it."
            )
            return 1
    chosen = steps(options.device)
    if options.steps is not None:
        chosen = [one for one in chosen if one.name in options.steps]
    deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    options.output.mkdir(parents=True, exist_ok=True)
    done = run_all(chosen, options.output, device=options.device, deadline=deadline)
    results = {run: _read_json(options.output / f"{run}.out") for run in RUNS}
    folder = RESULTS if options.device == "cuda" else options.output
    write(name, {k: v for k, v in results.items() if v is not None}, done, folder=folder)
    return int(any(one.status != 0 for one in done))


def run_all(
    chosen: Sequence[Step], output: Path, *, device: str, deadline: float | None
) -> list[Done]:
    """Run steps in order; write `steps.json` anew after each."""
    done: list[Done] = []
    behind: dict[str, _Running] = {}

    def finish(running: _Running) -> None:
        done.append(running.wait(deadline))
        print(f"{done[-1].name}: {done[-1].status}, {done[-1].seconds:.0f} s", flush=True)
        listed = [dataclasses.asdict(one) for one in done]
        (output / "steps.json").write_text(json.dumps(listed, indent=1, allow_nan=False) + "\n")

    for step in chosen:
        if step.needs in behind:
            finish(behind.pop(step.needs))
        if deadline is not None and time.monotonic() >= deadline:
            done.append(Done(name=step.name, status=None, seconds=0.0))
            continue
        running = _Running(step, output, device=device)
        if step.background:
            behind[step.name] = running
        else:
            finish(running)
    for running in behind.values():
        finish(running)
    return done


class _Running:
    """A running step; its output goes to `<name>.out` and `<name>.err`."""

    def __init__(self, step: Step, output: Path, *, device: str) -> None:
        self._step = step
        self._started = time.monotonic()
        with contextlib.ExitStack() as stack:
            out, err = (
                stack.enter_context((output / f"{step.name}.{end}").open("w"))
                for end in ("out", "err")
            )
            self._process = subprocess.Popen(
                [sys.executable, *step.arguments],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                start_new_session=True,  # so that its own children can be ended, too
                env={**os.environ, "EXPORTLOSS_GPU": device, "PYTHONPATH": _import_path()},
            )

    def wait(self, deadline: float | None) -> Done:
        limit = None
        if deadline is not None:
            limit = min(self._started + self._step.seconds, deadline) - time.monotonic()
        try:
            status: int | None = self._process.wait(None if limit is None else max(limit, 0))
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            status = None
        seconds = time.monotonic() - self._started
        return Done(name=self._step.name, status=status, seconds=seconds)


def write(
    name: str, results: Mapping[str, Any], done: Sequence[Done], *, folder: Path = RESULTS
) -> Path:
    """Write `<gpu>.json` and a table, `<gpu>.md`; return the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    content = {"gpu": name, "steps": [dataclasses.asdict(one) for one in done], "runs": results}
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    table = "\n".join([f"# {name}", "", *_table(results), "", *_ends(done), ""])
    path.with_suffix(".md").write_text(table)
    print(f"\n{table}\n{path}")
    return path


def _table(results: Mapping[str, Any]) -> Iterator[str]:
    yield "| run | implementation | median ms | min | max | to eager | peak device MB |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for run, result in results.items():
        for row in result["rows"]:
            numbers = (row.get(k) for k in ("median_ms", "min_ms", "max_ms", "ratio_to_eager"))
            cells = [run, row["rival"], *map(_cell, numbers), _cell(row.get("peak_device_mb"))]
            yield f"| {' | '.join(cells)} |"
        for missing in result["unavailable"]:
            yield f"| {run} | {missing['rival']} | {missing['reason']} | | | | |"


def _ends(done: Sequence[Done]) -> Iterator[str]:
    yield "| step | exit status | s |"
    yield "|---|---:|---:|"
    for one in done:
        status = "no time" if one.status is None else one.status
        yield f"| {one.name} | {status} | {one.seconds:.0f} |"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def _import_path() -> str:
    """Return an import path with this checkout, in case exportloss is not installed."""
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


def _output(*command: str) -> str:
    """Return the output of a command; empty if it does not exist or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())

"""Run all that needs an NVIDIA GPU, and write down what it found: `make gpu`.

Runs the tests of `tests/gpu`, then the benchmarks, in the interpreter that runs this file: torch
2.11 or later, pytest and exportloss; onnxruntime-gpu for the artifacts. onnx is not needed where
`build/gpu` was copied from a machine on which `make gpu-artifacts` was said. Where there is no
NVIDIA GPU, this says so and does nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "build" / "gpu"
RESULTS = ROOT / "benchmarks" / "results"

# Options of the benchmarks, by the name of a run.
SIZES = {"weights": "yolov5n", "nc": 80, "imgsz": 640, "max-targets": 300, "targets": 120}
RUNS = {
    f"{bench}-{batch}": (bench, SIZES | {"batch-size": batch})
    for bench in ("loss", "step")
    for batch in (16, 64)
}
_NAME = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
_POLL_S = 0.2


def main() -> int:
    """Run; 1 where a test or benchmark failed."""
    listed = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    name = _output(sys.executable, "-c", _NAME)
    if not name and not listed:
        print("No NVIDIA GPU here: nothing was run. See docs/cuda.md.")
        return 0
    if not name:
        print(f"There is {listed.splitlines()[0]}, but torch of {sys.executable} cannot use it.")
        return 1
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-ra", "tests/gpu"]
    tests = subprocess.run(command, cwd=ROOT, check=False)
    results = {run: _bench(run) for run in RUNS}
    write(name, results, tests_passed=tests.returncode == 0)
    return int(tests.returncode != 0 or None in results.values())


def write(name: str, results: dict[str, Any], *, tests_passed: bool) -> Path:
    """Write `<gpu>.json` and a table, `<gpu>.md`; return the first."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    content = {"gpu": name, "tests_passed": tests_passed, "runs": results}
    path.write_text(json.dumps(content, indent=1) + "\n")
    table = "\n".join([f"# {name}", "", *_table(results), ""])
    path.with_suffix(".md").write_text(table)
    print(f"\n{table}\n{path}")
    return path


def _table(results: dict[str, Any]) -> Iterator[str]:
    yield "| run | rival | median ms | min | max | to eager | peak device MB |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for run, result in results.items():
        for row in (result or {}).get("rows", ()):
            numbers = (row.get(k) for k in ("median_ms", "min_ms", "max_ms", "ratio_to_eager"))
            cells = [run, row["rival"], *map(_cell, numbers), _cell(row.get("peak_device_mb"))]
            yield f"| {' | '.join(cells)} |"
        for missing in (result or {}).get("unavailable", ()):
            yield f"| {run} | {missing['rival']} | {missing['reason']} | | | | |"
        if result is None:
            yield f"| {run} | failed | | | | | |"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _bench(run: str) -> dict[str, Any] | None:
    """Time all rivals in turn; then let each run alone, and watch the GPU's memory."""
    result = _json(run)
    for row in (result or {}).get("rows", ()):
        with _Memory() as memory:
            _json(run, "--rivals", row["rival"], "--rounds", "2")
        row["peak_device_mb"] = memory.peak_mb
    return result


def _json(run: str, *options: str) -> dict[str, Any] | None:
    bench, sizes = RUNS[run]
    command = [sys.executable, "-m", "exportloss", "bench", bench, "--device", "cuda", "--json"]
    command += [f"--{name}={value}" for name, value in sizes.items()]
    command += ["--artifacts", str(ARTIFACTS / run), *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"failed: {' '.join(command)}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class _Memory:
    """Watches how much of the first GPU's memory is in use, above what was when it began."""

    def __enter__(self) -> _Memory:
        self._start = self._used()
        self.peak_mb: float | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_POLL_S):
            used = self._used()
            if used is not None and self._start is not None:
                self.peak_mb = max(self.peak_mb or 0.0, used - self._start)

    @staticmethod
    def _used() -> float | None:
        text = _output(
            "nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"
        )
        return float(text) if text.replace(".", "").isdigit() else None  # a Jetson has no number


def _output(*command: str) -> str:
    """What a command prints; empty where there is no such command, or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())

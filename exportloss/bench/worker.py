"""The process of one implementation: answers requests on its input, one JSON object per line.

    {"do": "prepare", "implementation": {...}, "scenario": {...}, "artifact": null}   get ready
    {"do": "check"}                       numbers on which the implementations must agree
    {"do": "turn", "unmeasured": 1, "steps": 2}     seconds of each step
    {"do": "memory"}                      megabytes

It ends with its input. Needs numpy, and what the implementation needs: no torch for ONNX Runtime's.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

import exportloss
from exportloss.bench.implementations.implementation import Implementation, Prepared
from exportloss.bench.machine.memory import device_mb, peak_mb, resident_mb
from exportloss.bench.scenario import Scenario
from exportloss.errors import ExportLossError

__all__ = ["main"]

Reply = dict[str, Any]


class _Worker:
    def __init__(self) -> None:
        self._prepared: Prepared | None = None
        self._imported_mb = self._loaded_mb = 0.0

    def answer(self, request: Mapping[str, Any]) -> Reply:
        given = {name: value for name, value in request.items() if name != "do"}
        actions: Mapping[str, Callable[..., Reply]] = {
            "prepare": self._prepare,
            "check": self._check,
            "turn": self._turn,
            "memory": self._memory,
        }
        return actions[request["do"]](**given)

    def _prepare(
        self, implementation: Mapping[str, Any], scenario: Mapping[str, Any], artifact: str | None
    ) -> Reply:
        started = time.perf_counter()
        described = Implementation(
            **{**implementation, "libraries": tuple(implementation["libraries"])}
        )
        if "torch" not in described.libraries:
            # Some builds of onnxruntime import torch if it is installed; a device has none.
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            libraries = [import_module(name) for name in described.libraries]
            prepare = described.load()
        except ModuleNotFoundError as error:
            return {"refused": f"{error.name} is not installed"}
        self._imported_mb, imported = resident_mb(), time.perf_counter()
        folder = None if artifact is None else Path(artifact)
        try:
            self._prepared = prepare(Scenario.from_json(scenario), folder)
        except ExportLossError as error:
            return {"refused": str(error)}
        self._loaded_mb = resident_mb()
        return {
            "exportloss": exportloss.__version__,
            "python": platform.python_version(),
            "engine": f"{libraries[0].__name__} {libraries[0].__version__}",
            "import_s": imported - started,
            "prepare_s": time.perf_counter() - imported,
            "scale": self._prepared.scale,
            "facts": dict(self._prepared.facts),
        }

    def _check(self) -> Reply:
        assert self._prepared is not None
        return {"numbers": list(self._prepared.check())}

    def _turn(self, unmeasured: int, steps: int) -> Reply:
        assert self._prepared is not None
        step, seconds = self._prepared.step, []
        for _ in range(unmeasured):
            step()
        for _ in range(steps):
            started = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - started)
        return {"seconds": seconds}

    def _memory(self) -> Reply:
        return {
            "imported_mb": self._imported_mb,
            "loaded_mb": self._loaded_mb,
            "peak_mb": peak_mb(),
            "peak_device_mb": device_mb(),
        }


def main() -> int:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process decides
    replies = _take_standard_output()
    worker = _Worker()
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=replies, flush=True)
    return 0


def _take_standard_output() -> TextIO:
    """Reserve standard output for replies; libraries that print to it write to standard error."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


if __name__ == "__main__":
    sys.exit(main())

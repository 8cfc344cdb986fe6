"""Child process of `contained`: opens one detector and runs it within limits."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

from exportloss.errors import ArtifactError
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.processes.child import receive, send
from exportloss.runtime.processes.limits import follow_parent, limit_memory, private_output, told
from exportloss.runtime.sessions.devices import Device, import_engine

__all__ = ["main"]

_BASE = 1 << 30  # bytes for ONNX Runtime itself, its threads and plans
_TIMES_MODEL = 8  # file sizes: weights, copies of them in other layouts, graphs in memory
_TIMES_INPUT = 128  # sizes of the float32 images: all maps of a network that live at one time


def main() -> None:
    """Answer the first message with a description, and each later one with predictions."""
    requests, answers = sys.stdin.buffer, private_output()
    follow_parent()
    about, content = receive(requests)
    size, is_cpu = len(content), about["device"] == "cpu"

    def limit(count: int) -> None:
        if is_cpu:  # GPU drivers reserve more address space than there is memory
            limit_memory(_BASE + _TIMES_MODEL * size + _TIMES_INPUT * 4 * count)

    telling = partial(
        told,
        answers,
        ArtifactError,
        too_much=f"{about['path']} needs more memory than a detector of its size should",
        failed=f"{about['path']} cannot be run",
    )

    def start() -> tuple[Detector, dict[str, Any]]:
        import_engine(Device.parse(about["device"]))
        limit(0)
        detector = Detector.from_content(
            content,
            about["path"],
            device=about["device"],
            threads=about["threads"],
            self_check=about["self_check"],
        )
        return detector, {
            "names": detector.names,
            "stride": detector.stride,
            "batch_size": detector.batch_size,
            "image_size": detector.image_size,
        }

    with telling():
        detector, described = start()
        send(answers, described)
    while True:
        try:
            request, pixels = receive(requests)
        except EOFError:
            return
        with telling():
            images = np.frombuffer(pixels, np.uint8).reshape(request["shape"])
            limit(images.size)
            rows = np.ascontiguousarray(detector.predict(images), np.float32)
            send(answers, {"shape": rows.shape}, rows.tobytes())

"""The child of `exportloss.runtime.contained`: opens one detector and runs it, within limits."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from typing import IO, Any

import numpy as np

from exportloss.errors import ExportLossError
from exportloss.runtime.contained import receive, send
from exportloss.runtime.devices import Device, import_engine
from exportloss.runtime.inference import Detector

try:
    import resource
except ImportError:  # Windows, where memory is not limited
    resource = None  # type: ignore[assignment]

__all__ = ["main"]

_BASE = 1 << 30  # bytes for ONNX Runtime itself, its threads and what it plans
_TIMES_MODEL = 8  # of the file: weights, copies of them in other layouts, graphs in memory
_TIMES_INPUT = 128  # of the pictures as float32: all maps of a network that live at one time
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer one message with a description, and each one after it with predictions."""
    requests, answers = sys.stdin.buffer, _private_output()
    _follow_parent()
    about, content = receive(requests)
    size, is_cpu = len(content), about["device"] == "cpu"

    def limit(pictures: int) -> None:
        if is_cpu:  # drivers of GPUs reserve more than there is
            _limit(_BASE + _TIMES_MODEL * size + _TIMES_INPUT * 4 * pictures)

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

    with _told(answers, about["path"]):
        detector, described = start()
        send(answers, described)
    while True:
        try:
            request, pixels = receive(requests)
        except EOFError:
            return
        with _told(answers, about["path"]):
            images = np.frombuffer(pixels, np.uint8).reshape(request["shape"])
            limit(images.size)
            rows = np.ascontiguousarray(detector.predict(images), np.float32)
            send(answers, {"shape": rows.shape}, rows.tobytes())


def _private_output() -> IO[bytes]:
    """Keep stdout for the answers: what a library prints goes to stderr."""
    private = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(private, "wb")


def _follow_parent() -> None:
    """End when the parent does, on Linux even amid a computation; dump no memory."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit(memory: int) -> None:
    """Limit the memory that may be written to, as far as the system does, and write no file."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@contextlib.contextmanager
def _told(answers: IO[bytes], path: str) -> Any:
    """Tell the parent what goes wrong."""
    try:
        yield
    except ExportLossError as error:
        send(answers, {"error": type(error).__name__, "message": str(error)})
    except MemoryError:
        message = f"{path} needs more memory than a detector of its size should"
        send(answers, {"error": "ArtifactError", "message": message})
    except Exception as error:
        send(answers, {"error": "ArtifactError", "message": f"{path} cannot be run: {error}"})

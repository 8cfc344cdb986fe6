"""An untrusted detector, run in a child process within limits.

An ONNX file is a program for ONNX Runtime, in which a division by zero or a recursive function ends
the process, and a loop may never end. So an untrusted file is opened in a child process with limits
on memory and time, which writes no file and can end without harm.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ExportLossError, excerpt
from exportloss.runtime.evaluation.detector_file import Description
from exportloss.runtime.processes.child import TIME_LIMIT, Child, ChildError, raise_told

__all__ = ["TIME_LIMIT", "ContainedDetector"]


class ContainedDetector:
    """A child process that has opened a detector.

    Args:
        content: Bytes of the ONNX file.
        path: Path of the file, for messages.
        device: Device to run on, by name.
        threads: Threads of the engine; None for every core.
        self_check: True to compare the device with the CPU first.
        seconds: Most seconds for opening, and per image.

    Attributes:
        description: Names and input of the detector.

    Raises:
        ExportLossError: as `Detector.open` does; `ArtifactError` if the child ends or takes too
            long.
    """

    def __init__(
        self,
        content: bytes,
        path: str,
        *,
        device: str,
        threads: int | None,
        self_check: bool,
        seconds: float,
    ) -> None:
        self._path = path
        self._seconds = seconds
        self._lock = threading.Lock()
        self._child = Child("exportloss.runtime.evaluation.container")
        settings = {"path": path, "device": device, "threads": threads, "self_check": self_check}
        try:
            found, _ = self._ask(settings, content, seconds, "to be opened")
        except ExportLossError:
            self._child.end()
            raise
        try:
            size = found["image_size"]
            self.description = Description(
                names=tuple(found["names"]),
                stride=found["stride"],
                batch_size=found["batch_size"],
                image_size=None if size is None else (size[0], size[1]),
            )
        except (KeyError, TypeError, IndexError) as error:
            self._child.end()
            raise self._no_answer(error) from error

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the detector, as `Detector.predict`.

        Raises:
            ArtifactError: the detector fails, ends the child, or takes too long.
        """
        with self._lock:
            limit = self._seconds * max(len(images), 1)
            shape, content = {"shape": images.shape}, np.ascontiguousarray(images).tobytes()
            found, rows = self._ask(shape, content, limit, "for a batch")
        try:
            boxes: npt.NDArray[np.float32] = np.frombuffer(rows, np.float32).reshape(found["shape"])
            return boxes
        except (KeyError, TypeError, ValueError) as error:
            self._child.end()
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{self._path}: the process that runs it gave no answer of the expected form "
            f"({excerpt(repr(error))}); is the file damaged, or made to do so?"
        )

    def _ask(
        self, about: dict[str, Any], content: bytes, seconds: float, what: str
    ) -> tuple[dict[str, Any], bytes]:
        try:
            answer, rows = self._child.exchange(seconds, (about, content))
        except ChildError as error:
            advice = (
                "; raise time_limit if you trust the file"
                if error.late
                else "; is it damaged, or made to do so?"
            )
            raise ArtifactError(
                f"{self._path}: ONNX Runtime {error} {what}{advice}",
                argument="time_limit" if error.late else None,
            ) from error
        raise_told(answer, default=ArtifactError)
        return answer, rows

"""A detector of somebody else's, run in a process of its own with little to spend.

An ONNX file is a program for ONNX Runtime, in which a division by zero or a function that calls
itself ends the process, and a loop may go on for ever. So a file from elsewhere is opened in a
child, which may take so much memory and time, write no file, and end without taking anything along.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

import exportloss
from exportloss import errors
from exportloss.errors import ArtifactError, ExportLossError, excerpt

__all__ = ["TIME_LIMIT", "ContainedDetector", "Description", "receive", "send"]

TIME_LIMIT = 60.0  # seconds to open a file, and for each picture
_LENGTH = 8  # bytes that say how long what follows is
_MOST = 1 << 34  # bytes of a message
_LONGEST_MESSAGE = 1_000  # characters of an error
# Not `-m`: it would search the working folder for modules before all others.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); import exportloss.runtime.container as c; c.main()"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a detector takes, as in `Detector`."""

    names: tuple[str, ...]
    stride: int
    batch_size: int | None
    image_size: tuple[int, int] | None


class ContainedDetector:
    """A child process that has opened a detector.

    Args:
        content: of the ONNX file.
        path: of the file, for messages.
        device: where to run it, by name.
        threads: of the engine; None takes every core.
        self_check: whether to compare the device with the CPU first.
        seconds: what opening may take, and each picture.

    Raises:
        ExportLossError: as `Detector.open` does; an `ArtifactError` if the child ends, or takes too
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
        root = str(Path(exportloss.__file__).parents[1])
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process, which ends the child
        )
        weakref.finalize(self, _end, self._child)
        settings = {"path": path, "device": device, "threads": threads, "self_check": self_check}
        try:
            found, _ = self._ask(settings, content, seconds, "to be opened")
        except ExportLossError:
            _end(self._child)
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
            _end(self._child)
            raise self._no_answer(error) from error

    def predict(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the detector, as `Detector.predict`.

        Raises:
            ArtifactError: it fails, ends the child, or takes too long.
        """
        with self._lock:
            limit = self._seconds * max(len(images), 1)
            shape, content = {"shape": images.shape}, np.ascontiguousarray(images).tobytes()
            found, rows = self._ask(shape, content, limit, "for a batch")
        try:
            return np.frombuffer(rows, np.float32).reshape(found["shape"])
        except (KeyError, TypeError, ValueError) as error:
            _end(self._child)
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> ArtifactError:
        return ArtifactError(
            f"{self._path}: the process that runs it gave no answer of the expected form "
            f"({excerpt(repr(error))}); is the file damaged, or made to do so?"
        )

    def _ask(
        self, about: dict[str, Any], content: bytes, seconds: float, what: str
    ) -> tuple[dict[str, Any], bytes]:
        child = self._child
        assert child.stdin is not None
        assert child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            send(child.stdin, about, content)
            answer, rows = receive(child.stdout)
        except (OSError, EOFError, ValueError) as error:
            running = child.poll() is None and not late.is_set()
            _end(child)
            if running and isinstance(error, ValueError):
                raise self._no_answer(error) from error
            reason = (
                f"took more than {seconds:g} seconds {what}; raise the limit (--time-limit) if you "
                "trust the file"
                if late.is_set()
                else f"{_ending(child.returncode)} {what}; is it damaged, or made to do so?"
            )
            raise ArtifactError(f"{self._path}: ONNX Runtime {reason}") from error
        finally:
            timer.cancel()
        if "error" in answer:
            kind = getattr(errors, str(answer["error"]), ArtifactError)
            if not (isinstance(kind, type) and issubclass(kind, ExportLossError)):
                kind = ArtifactError
            raise kind(excerpt(str(answer["message"]), _LONGEST_MESSAGE))
        return answer, rows


def send(stream: IO[bytes], about: dict[str, Any], content: bytes = b"") -> None:
    """Write a message: values, and bytes."""
    text = json.dumps(about, allow_nan=False).encode()
    for part in (text, content):
        stream.write(len(part).to_bytes(_LENGTH, "little"))
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read a message.

    Raises:
        EOFError: the other side is gone.
        ValueError: it is too long, or does not begin with a JSON object.
    """
    parts = []
    for _ in range(2):
        size = int.from_bytes(_exactly(stream, _LENGTH), "little")
        if size > _MOST:
            raise ValueError(f"a message of {size} bytes")
        parts.append(_exactly(stream, size))
    try:
        about = json.loads(parts[0])
    except RecursionError as error:
        raise ValueError("a message of too many levels") from error
    if not isinstance(about, dict):
        raise ValueError(f"a message that is {type(about).__name__}, not an object")
    return about, parts[1]


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return content


def _ending(returncode: int | None) -> str:
    if returncode is not None and returncode < 0:
        with contextlib.suppress(ValueError):  # a signal without a name
            return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child and wait for it."""
    child.kill()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # of what was not written yet
                stream.close()
    child.wait()

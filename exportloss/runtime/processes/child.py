"""A child process that reads untrusted files, and the messages to and from it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any

import exportloss
from exportloss import errors
from exportloss.errors import ExportLossError, excerpt

__all__ = ["TIME_LIMIT", "Child", "ChildError", "raise_told", "receive", "send"]

TIME_LIMIT = 60.0  # seconds to open a file, and per image

_LENGTH = 8  # bytes of the length before each part of a message
_MOST = 1 << 34  # bytes per part of a message
_LONGEST_MESSAGE = 1_000  # characters of an error's message
# The working folder is not searched for modules. Python 3.10 has no option for that: there the
# program removes the folder from the path before it imports any file.
_SAFE_PATH = ("-P",) if sys.version_info >= (3, 11) else ()
_PROGRAM = (
    "import sys; sys.version_info < (3, 11) and sys.path.pop(0); sys.path.append(sys.argv[1]); "
    "import importlib; importlib.import_module(sys.argv[2]).main()"
)


class ChildError(Exception):
    """A child has ended, or took too long.

    Attributes:
        late: Whether the child took too long.
    """

    def __init__(self, message: str, *, late: bool) -> None:
        super().__init__(message)
        self.late = late


class Child:
    """A process that runs `main` of a module of this package, ended with this object.

    Args:
        module: Full name of the module.
    """

    def __init__(self, module: str) -> None:
        root = str(Path(exportloss.__file__).parents[1])
        self._process = subprocess.Popen(
            [sys.executable, *_SAFE_PATH, "-c", _PROGRAM, root, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this process, which ends the child
        )
        weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        """Process ID."""
        return self._process.pid

    def exchange(
        self, seconds: float, request: tuple[dict[str, Any], bytes] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a request, if any, and wait for a message.

        Args:
            seconds: Time limit.
            request: Values and bytes; None to send nothing.

        Returns:
            Values and bytes of the message.

        Raises:
            ChildError: the child has ended, or took too long and was ended.
        """
        child = self._process
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
            if request is not None:
                send(child.stdin, *request)
            return receive(child.stdout)
        except (OSError, EOFError, ValueError) as error:
            running = child.poll() is None
            _end(child)
            if late.is_set():
                raise ChildError(f"took more than {seconds:g} seconds", late=True) from error
            if running and isinstance(error, ValueError):
                what = excerpt(repr(error))
                raise ChildError(
                    f"gave no answer of the expected form ({what})", late=False
                ) from error
            raise ChildError(_ending(child.returncode), late=False) from error
        finally:
            timer.cancel()

    def end(self) -> None:
        """End the process and wait for it."""
        _end(self._process)


def raise_told(answer: dict[str, Any], *, default: type[ExportLossError]) -> None:
    """Raise the error that a child reported through `told`; otherwise do nothing.

    Args:
        answer: Values of a message.
        default: Class to raise if the message names no error of this package.
    """
    if "error" in answer:
        kind = getattr(errors, str(answer["error"]), default)
        if not (isinstance(kind, type) and issubclass(kind, ExportLossError)):
            kind = default
        argument = answer.get("argument")
        raise kind(
            excerpt(str(answer["message"]), _LONGEST_MESSAGE),
            argument=argument if isinstance(argument, str) else None,
        )


def send(stream: IO[bytes], about: dict[str, Any], content: bytes | memoryview = b"") -> None:
    """Write a message of values and bytes."""
    text = json.dumps(about, allow_nan=False).encode()
    for part in (text, content):
        stream.write(len(part).to_bytes(_LENGTH, "little"))
        stream.write(part)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read a message, and return its values and bytes.

    Raises:
        EOFError: the other process has closed the stream.
        ValueError: the message is too long, or does not begin with a JSON object.
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
        raise ValueError("a message nested too deep") from error
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
            with contextlib.suppress(OSError):  # from flushing to the ended process
                stream.close()
    child.wait()

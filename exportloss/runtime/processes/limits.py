"""Limits of a child process, and its reports of errors."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO

from exportloss.errors import ExportLossError
from exportloss.runtime.processes.child import send

try:
    import resource
except ImportError:  # Windows, where nothing limits the memory
    resource = None  # type: ignore[assignment]

__all__ = ["follow_parent", "limit_memory", "private_output", "told"]

_PR_SET_PDEATHSIG = 1


def private_output() -> IO[bytes]:
    """Return stdout for the answers alone; what libraries print goes to stderr."""
    private = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(private, "wb")


def follow_parent() -> None:
    """Write no core dumps and, on Linux, end this process when its parent ends."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(memory: int) -> None:
    """Limit this process's data memory, and forbid it to write files; no-op on Windows.

    Args:
        memory: Limit in bytes.
    """
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@contextlib.contextmanager
def told(
    answers: IO[bytes], default: type[ExportLossError], *, too_much: str, failed: str
) -> Iterator[None]:
    """Report errors in this block to the parent.

    Args:
        answers: Stream to the parent.
        default: Class that stands for errors of other packages.
        too_much: Message for a lack of memory.
        failed: Beginning of the message for an error of another package.
    """
    try:
        yield
    except ExportLossError as error:
        about = {"error": type(error).__name__, "message": str(error)}
        send(answers, about | ({"argument": error.argument} if error.argument else {}))
    except MemoryError:
        send(answers, {"error": default.__name__, "message": too_much})
    except Exception as error:
        send(answers, {"error": default.__name__, "message": f"{failed}: {error}"})

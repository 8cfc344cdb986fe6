"""Limits of a child process, and how it reports what goes wrong."""

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
except ImportError:  # Windows, where memory is not limited
    resource = None  # type: ignore[assignment]

__all__ = ["follow_parent", "limit_memory", "private_output", "told"]

_PR_SET_PDEATHSIG = 1


def private_output() -> IO[bytes]:
    """Keep stdout for the answers: what a library prints goes to stderr."""
    private = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(private, "wb")


def follow_parent() -> None:
    """End when the parent does, on Linux even amid a computation; dump no memory."""
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if resource is not None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(memory: int) -> None:
    """Limit the memory that may be written to, as far as the system does, and write no file."""
    if resource is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (memory, most))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@contextlib.contextmanager
def told(
    answers: IO[bytes], default: type[ExportLossError], *, too_much: str, failed: str
) -> Iterator[None]:
    """Tell the parent what goes wrong.

    Args:
        answers: where to.
        default: the error for what is none of this package's.
        too_much: message where memory is lacking.
        failed: how the message of another error begins.
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

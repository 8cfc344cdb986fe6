"""Run as `exportloss`, or as `python -m exportloss`."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from types import FrameType

__all__ = ["main"]

_REFUSED, _INTERRUPTED = 2, 130
_LONGEST = 1000  # characters of an error


def main() -> int:
    """Run the command line of this process and return its exit status.

    This wrapper does what `exportloss.cli.main` cannot do for itself: it exits quietly on Ctrl-C
    while modules are imported, reports an import that fails in one line, prints in any terminal
    encoding, and leaves no buffered output for Python to complain about at exit.
    """
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _leave)
    try:
        from exportloss.cli import main as run
    except Exception as error:  # too little memory shows as errors of many classes
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST]
        sys.stderr.write(f"exportloss: error: exportloss cannot be loaded: {why}\n")
        return _REFUSED
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run()
    except KeyboardInterrupt:  # outside the handler of `run`
        status = _INTERRUPTED
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, _leave)
        _close_output()
    return status


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


def _close_output() -> None:
    """Flush the output streams; drop what cannot be written, such as to a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())

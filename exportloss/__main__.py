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
    """Run the command line of this process, and return its exit status.

    Does what `exportloss.cli.main` cannot do for itself: ends silently when it is interrupted
    while modules are loaded, reports in one line that they cannot be loaded, prints in any encoding
    of the terminal, and closes the output so that Python reports nothing at exit.
    """
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _leave)
    try:
        from exportloss.cli import main as run
    except Exception as error:  # of many kinds if memory is short
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST]
        sys.stderr.write(f"exportloss: error: it cannot be loaded: {why}\n")
        return _REFUSED
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        if interruptible:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        status = run()
    except KeyboardInterrupt:  # outside the block in which `run` handles it
        status = _INTERRUPTED
    finally:
        if interruptible:
            signal.signal(signal.SIGINT, _leave)
        _close_output()
    return status


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(_INTERRUPTED)


def _close_output() -> None:
    """Flush the output; discard it if its reader has gone."""
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

"""Many runs of the command, each in a process of its own, without a start of Python for each.

A process imports everything once and then forks for each command: a start with torch takes
seconds, a fork milliseconds. For tests of what a command does; those of its start use
`python -m exportloss`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

__all__ = ["ForkedCommands"]

_ROOT = Path(__file__).parents[2]
_SERVER = """
import json, os, sys
from exportloss.__main__ import main
from tests.support.preload import preload

preload()

def become(job):
    os.setsid()  # with the processes that it starts, it can be given up
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["environment"])
    files = [os.open(os.devnull, os.O_RDONLY)]
    files += [os.open(path, os.O_WRONLY | os.O_CREAT) for path in job["outputs"]]
    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.argv = ["exportloss", *job["arguments"]]

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            become(json.loads(line))
            status = main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class ForkedCommands:
    """A process that runs commands; close it at the end."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )

    def run(
        self, *arguments: str, cwd: Path, environment: Mapping[str, str], seconds: float
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command and wait for it.

        Raises:
            TimeoutExpired: it took more than `seconds`, and was killed.
        """
        server = self._server
        assert server.stdin is not None and server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder) / name for name in ("stdout", "stderr")]
            job = {
                "arguments": arguments,
                "cwd": str(cwd),
                "environment": dict(environment),
                "outputs": list(map(str, outputs)),
            }
            print(json.dumps(job), file=server.stdin, flush=True)
            pid = int(server.stdout.readline())
            with _Killer(pid, seconds) as killer:
                status = int(server.stdout.readline())
            if killer.has_killed:
                raise subprocess.TimeoutExpired(arguments, seconds)
            told, error = (path.read_bytes() for path in outputs)
        return subprocess.CompletedProcess(arguments, status, told, error)

    def close(self) -> None:
        """End the process."""
        with self._server:  # closes its input, on which it ends
            pass


class _Killer:
    """Kills a process, and those that it started, after a time."""

    def __init__(self, pid: int, seconds: float) -> None:
        self.has_killed = False
        self._pid = pid
        self._timer = threading.Timer(seconds, self._kill)

    def __enter__(self) -> _Killer:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _kill(self) -> None:
        self.has_killed = True
        os.killpg(self._pid, signal.SIGKILL)

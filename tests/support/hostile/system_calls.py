"""What a program asks of the system: sockets and other programs, as `strace` sees them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Traced", "trace", "why_no_trace"]

_TRACE = ("strace", "-f", "-qq", "--seccomp-bpf", "-s", "300", "-e", "trace=%network,execve")
_CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)$")
# These silence what a library would tell its maker, so that a test that has them sees nothing.
_SILENCERS = ("CI", "ORT_DISABLE_TELEMETRY", "TF_BUILD", "GITHUB_ACTIONS", "JENKINS_URL")


class Traced:
    """A program that has ended.

    Attributes:
        returncode: its exit status.
        errors: what it wrote to stderr.
        sockets: families of the sockets that it or a child asked for.
        programs: the arguments of each program that was started, as strace writes them.
        kept: what it left in the user's home folder, which was empty.
    """

    def __init__(self, returncode: int, errors: str, log: str, kept: set[str]) -> None:
        self.returncode = returncode
        self.errors = errors
        self.kept = kept
        calls = [match.groups() for line in log.splitlines() if (match := _CALL.match(line))]
        self.sockets = {rest.partition(",")[0] for call, rest in calls if call == "socket"}
        # Without the search for a program along PATH.
        self.programs = [r for call, r in calls if call == "execve" and "ENOENT" not in r]

    def strangers(self) -> list[str]:
        """Return the programs that are not this Python."""
        own = f'"{sys.executable}"'
        return [program for program in self.programs if not program.startswith(own)]


def why_no_trace() -> str | None:
    """Return why calls cannot be traced here; None where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run([*_TRACE, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or "strace fails" if tried.returncode else None


def trace(arguments: Sequence[str]) -> Traced:
    """Run this Python with arguments, and without the variables that silence a library."""
    environment = {k: v for k, v in os.environ.items() if k not in _SILENCERS}
    with tempfile.TemporaryDirectory() as folder:
        log, home = Path(folder) / "log", Path(folder) / "home"
        home.mkdir()
        environment |= {"HOME": str(home), "EXPORTLOSS_CACHE": ""}
        environment.pop("XDG_CACHE_HOME", None)
        done = subprocess.run(
            [*_TRACE, "-o", str(log), sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        kept = {path.name for path in home.iterdir()}
        return Traced(done.returncode, done.stderr, log.read_text(errors="replace"), kept)

"""Starting and querying the process of an implementation; its other end is `worker`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import exportloss
from exportloss.bench.implementations.implementation import Implementation
from exportloss.bench.scenario import Scenario
from exportloss.errors import BenchmarkError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ImplementationProcess", "Ready", "Unavailable"]

_SHOWN_LINES = 12
_SECONDS_TO_END = 5


class Unavailable(Exception):  # noqa: N818 - an answer rather than an error
    """An implementation cannot take part here; the message says why."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ready:
    """Report of an implementation that is ready.

    Attributes:
        engine: Package that computes, with its version.
        python: Version of its interpreter.
        import_s: Duration of the imports, seconds.
        prepare_s: Duration of building, loading and compiling, seconds.
        scale: See `Prepared`.
        facts: See `Prepared`.
    """

    engine: str
    python: str
    import_s: float
    prepare_s: float
    scale: float
    facts: dict[str, float]


class ImplementationProcess:
    """An implementation in a process of its own; a context manager, which ends it.

    Args:
        implementation: Implementation to run.
        python: Interpreter that can import exportloss.
    """

    def __init__(self, implementation: Implementation, *, python: str = sys.executable) -> None:
        self.implementation = implementation
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "exportloss.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **implementation.environment},
        )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def prepare(self, scenario: Scenario, artifact: Path | None) -> Ready:
        """Prepare the implementation for its first step.

        Raises:
            Unavailable: It cannot take part.
            BenchmarkError: It crashed, or has another version of exportloss.
        """
        reply = self._ask(
            "prepare",
            implementation=dataclasses.asdict(self.implementation),
            scenario=dataclasses.asdict(scenario),
            artifact=None if artifact is None else str(artifact),
        )
        if "refused" in reply:
            raise Unavailable(reply["refused"])
        if (version := reply.pop("exportloss")) != exportloss.__version__:
            raise BenchmarkError(
                f"{self.implementation.name}'s interpreter has exportloss {version}, this one "
                f"{exportloss.__version__}; install the same there"
            )
        return Ready(**reply)

    def check(self) -> tuple[float, ...]:
        """Return the numbers on which implementations must agree."""
        return tuple(self._ask("check")["numbers"])

    def turn(self, *, unmeasured: int, steps: int) -> list[float]:
        """Do a turn, as `Stepper.turn`; return the seconds of each timed step."""
        seconds: list[float] = self._ask("turn", unmeasured=unmeasured, steps=steps)["seconds"]
        return seconds

    def memory(self) -> dict[str, Any]:
        """Return resident MB after the imports and when ready, and the peaks so far."""
        return self._ask("memory")

    def _ask(self, what: str, **arguments: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):  # the missing reply is reported below
            stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            status = self._process.wait()
            self._errors.seek(0)
            written = self._errors.read().decode(errors="replace").strip().splitlines()
            raise BenchmarkError(
                f"{self.implementation.name} broke down ({what}, exit status {status})"
                + (": " + "\n".join(written[-_SHOWN_LINES:]) if written else "")
            )
        reply: dict[str, Any] = json.loads(line)
        return reply

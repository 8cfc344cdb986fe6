"""From a rival to a process of it that is ready for a step."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from exportloss.bench.implementations.artifacts import find_or_export
from exportloss.bench.implementations.implementation import Rival
from exportloss.bench.process import Ready, RivalProcess, Unavailable
from exportloss.bench.scenario import Scenario
from exportloss.errors import ArtifactError, ConfigError, ExportLossError, InstallationError

__all__ = ["Setting", "Started", "check_device", "started"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and with what rivals run.

    Attributes:
        scenario: the sizes.
        artifacts: folder of what is exported for the rivals: taken from there where it is there
            already, and left there; None exports to a temporary folder.
        device_python: interpreter for the portable rival, one without torch for example; None is
            this one.
        say: told what is going on.

    Raises:
        ConfigError: there is no such interpreter.
    """

    scenario: Scenario
    artifacts: str | Path | None = None
    device_python: str | None = None
    say: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        if self.device_python is not None and shutil.which(self.device_python) is None:
            raise ConfigError(
                f"{self.device_python} is no program that can be run; expected the Python "
                "interpreter of an environment that has exportloss and onnxruntime"
            )

    @contextlib.contextmanager
    def with_folder(self) -> Iterator[Setting]:
        """Yield this setting with a folder of artifacts, if need be for as long as this lasts."""
        if self.artifacts is not None:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="exportloss-bench-") as folder:
            yield dataclasses.replace(self, artifacts=folder)


@dataclasses.dataclass(frozen=True)
class Started:
    """A rival's process, and what it told when it was ready."""

    process: RivalProcess
    ready: Ready


@contextlib.contextmanager
def started(rival: Rival, setting: Setting) -> Iterator[Started]:
    """Yield a process that is ready; what it needs is exported first, here.

    Raises:
        Unavailable: the rival cannot take part; the message says why.
        ArtifactError: what is in the folder of artifacts is of other sizes.
        BenchmarkError: the process broke down.
    """
    artifact = None
    if rival.artifact is not None:
        assert setting.artifacts is not None
        setting.say(f"{rival.name}: export")
        try:
            artifact = find_or_export(rival.artifact, setting.scenario, Path(setting.artifacts))
        except ArtifactError:
            raise
        except ModuleNotFoundError as error:
            raise Unavailable(f"its export needs {error.name}, which is not installed") from error
        except ExportLossError as error:
            raise Unavailable(str(error)) from error
    python = setting.device_python if rival.portable else None
    setting.say(f"{rival.name}: start")
    with RivalProcess(rival, python=python or sys.executable) as process:
        yield Started(process, process.prepare(setting.scenario, artifact))


def check_device(scenario: Scenario) -> None:
    """See that the scenario's device is there.

    Raises:
        ConfigError: there is no such GPU.
        InstallationError: torch, which tells, is not installed.
    """
    if scenario.torch_device == "cpu":
        return
    try:
        import torch
    except ModuleNotFoundError as error:
        raise InstallationError(
            "a benchmark on a GPU needs torch, which is not installed"
        ) from error
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device is {scenario.device!r}, but torch {torch.__version__} finds no GPU; it needs "
            "an NVIDIA driver and a build of torch for CUDA. Or measure on the cpu"
        )

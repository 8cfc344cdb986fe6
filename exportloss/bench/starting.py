"""Starting an implementation: its export, and its process, ready for a step."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from exportloss.bench.implementations.artifacts import find_or_export
from exportloss.bench.implementations.implementation import Implementation
from exportloss.bench.process import ImplementationProcess, Ready, Unavailable
from exportloss.bench.scenario import Scenario
from exportloss.errors import ArtifactError, ConfigError, ExportLossError, InstallationError

__all__ = ["Setting", "Started", "check_device", "started"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Where and with what implementations run.

    Attributes:
        scenario: Sizes.
        artifacts: Folder of the exports, which are reused and kept; None exports to a temporary
            folder.
        device_python: Interpreter for the portable implementation, for example one without torch;
            None for this one.
        say: Function that is told the progress.

    Raises:
        ConfigError: There is no such interpreter.
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
        """Yield this setting with an artifacts folder, a temporary one if it has none."""
        if self.artifacts is not None:
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="exportloss-bench-") as folder:
            yield dataclasses.replace(self, artifacts=folder)


@dataclasses.dataclass(frozen=True)
class Started:
    """The process of an implementation, and its report when it was ready."""

    process: ImplementationProcess
    ready: Ready


@contextlib.contextmanager
def started(implementation: Implementation, setting: Setting) -> Iterator[Started]:
    """Export what the implementation needs, and yield its process, ready for a step.

    Raises:
        Unavailable: The implementation cannot take part; the message says why.
        ArtifactError: The artifacts folder holds files of other sizes.
        BenchmarkError: The process crashed.
    """
    artifact = None
    if implementation.artifact is not None:
        assert setting.artifacts is not None
        setting.say(f"{implementation.name}: export")
        try:
            artifact = find_or_export(
                implementation.artifact, setting.scenario, Path(setting.artifacts)
            )
        except ArtifactError:
            raise
        except ModuleNotFoundError as error:
            raise Unavailable(f"its export needs {error.name}, which is not installed") from error
        except ExportLossError as error:
            raise Unavailable(str(error)) from error
    python = setting.device_python if implementation.portable else None
    setting.say(f"{implementation.name}: start")
    with ImplementationProcess(implementation, python=python or sys.executable) as process:
        yield Started(process, process.prepare(setting.scenario, artifact))


def check_device(scenario: Scenario) -> None:
    """Check that the scenario's device exists.

    Raises:
        ConfigError: There is no such GPU.
        InstallationError: torch, which is asked, is not installed.
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
            "an NVIDIA driver and a build of torch for CUDA; otherwise measure on the cpu"
        )

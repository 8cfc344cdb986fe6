"""TensorRT's own ONNX parser, asked about a graph, and its builder of engines.

TensorRT for RTX needs no GPU for either; TensorRT itself starts only with an NVIDIA GPU. Neither
torch nor onnx is needed.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, ConfigError, InstallationError, excerpt
from exportloss.export.providers.parser_answer import (
    TENSORRT_NAMES,
    Engine,
    ParserAnswer,
    Refusal,
    TensorRTName,
)
from exportloss.runtime.storage.files import new_file

__all__ = ["ParserAnswer", "TensorRT", "installed", "why_not_asked"]

_MARK = b"trt"  # in engines of every kind of TensorRT, after one letter for the kind
_NODE = re.compile(r"Parsing node: (.*) \[(\w+)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Library:
    """A library and its Python packages.

    Attributes:
        title: Name of the library.
        packages: Packages with its bindings, in the order to try.
        install: Arguments of `pip install`.
    """

    title: str
    packages: tuple[str, ...]
    install: str


_LIBRARIES: Mapping[TensorRTName, _Library] = {
    "tensorrt": _Library(title="TensorRT", packages=("tensorrt",), install="tensorrt"),
    # The package of bindings alone can load the libraries of tensorrt-rtx-cu13-libs.
    "tensorrt-rtx": _Library(
        title="TensorRT for RTX",
        packages=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        install="tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
    ),
}


class TensorRT:
    """An installed library that parses graphs and builds engines.

    Args:
        provider: "tensorrt" or "tensorrt-rtx".
        compute_capability: Compute capability of the GPUs that engines are for, such as "8.9"
            (TensorRT for RTX only); None leaves the choice to the library.

    Raises:
        InstallationError: The library is not installed, or cannot start on this machine.
        ConfigError: The library builds no engines for this compute capability.
    """

    def __init__(self, provider: TensorRTName, *, compute_capability: str | None = None) -> None:
        self.provider = provider
        self._trt = _load(_LIBRARIES[provider])
        self.name = f"{_LIBRARIES[provider].title} {self._trt.__version__}"
        self._logger = _logger_of(self._trt)
        try:
            self._builder = self._trt.Builder(self._logger)
        except Exception as error:  # pybind's TypeError, without a CUDA device
            raise InstallationError(
                f"{self.name} cannot start here: it needs an NVIDIA GPU and its driver; "
                "provider tensorrt-rtx needs none (pip install "
                f"{_LIBRARIES['tensorrt-rtx'].install})"
            ) from error
        self._capability = self._find_capability(compute_capability)

    def parse(self, model: bytes, *, engine: str | Path | None = None) -> ParserAnswer:
        """Parse a graph, keeping its element types, and build its engine if requested.

        Args:
            model: Content of an ONNX file that includes the weights.
            engine: Path to write the engine to; None builds none. The file is written only if the
                build succeeds, and replaces an earlier engine, but no other file.

        Raises:
            ArtifactError: The engine cannot be written, or the path is not that of an engine.
        """
        if engine is not None:
            _check_place(Path(engine))
        trt = self._trt
        self._logger.forget()
        flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        network = self._builder.create_network(flags)
        parser = trt.OnnxParser(network, self._logger)
        is_taken = parser.parse(model) and network.num_outputs > 0
        answer = ParserAnswer(
            provider=self.provider,
            library=self.name,
            layers=network.num_layers,
            refusals=() if is_taken else self._refusals(parser),
        )
        return answer if engine is None or not is_taken else self._build(network, answer, engine)

    def _refusals(self, parser: Any) -> tuple[Refusal, ...]:
        found = []
        for index in range(parser.num_errors):
            error = parser.get_error(index)
            node, operator = error.node_name(), error.node_operator()
            if not operator:  # refused during conversion, which follows the check of all nodes
                node, operator = self._logger.node
            found.append(Refusal(node=node, operator=operator, reason=error.desc()))
        nothing = Refusal(node="", operator="", reason="the graph has no nodes or no outputs")
        return tuple(dict.fromkeys(found)) or (nothing,)

    def _build(self, network: Any, answer: ParserAnswer, path: str | Path) -> ParserAnswer:
        config = self._builder.create_builder_config()
        if self._capability is not None:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._capability, 0)
        try:
            with new_file(path) as temporary:  # fails before a build of minutes, not after
                start = time.perf_counter()
                plan = self._builder.build_serialized_network(network, config)
                seconds = time.perf_counter() - start
                if plan is None:
                    raise _NotBuiltError
                temporary.write_bytes(plan)
        except _NotBuiltError:
            reason = self._logger.error or "the builder returned no engine and gave no reason"
            return dataclasses.replace(
                answer, refusals=(Refusal(node="", operator="", reason=reason),)
            )
        return dataclasses.replace(answer, engine=Engine(size=plan.nbytes, seconds=seconds))

    def _find_capability(self, text: str | None) -> Any:
        if text is None:
            return None
        known = getattr(self._trt, "ComputeCapability", None)
        members = {} if known is None else known.__members__
        names = [f"{name[2:-1]}.{name[-1]}" for name in members if re.fullmatch(r"SM\d+", name)]
        if text not in names:
            expected = (
                f"one of {', '.join(names)}" if names else "None, for the GPU of this machine"
            )
            raise ConfigError(
                f"{self.name} builds no engines for compute capability {text!r}; "
                f"expected {expected}"
            )
        return members[f"SM{text.replace('.', '')}"]


def installed(provider: str, *, engine: bool, compute_capability: str | None) -> list[TensorRT]:
    """Return the installed libraries to ask about a graph, the provider's own first.

    For `tensorrt`, TensorRT for RTX is asked too, to report what it would refuse.

    Args:
        provider: Name of the provider in `exportloss check`.
        engine: Whether to build an engine, which takes the provider's own library only.
        compute_capability: See `TensorRT`.

    Raises:
        InstallationError: An engine is to be built, but its library is not installed or cannot
            start. If no engine is to be built, such a library is skipped.
        ConfigError: The provider has no engines, its library builds none for the compute
            capability, or a compute capability is given without an engine.
    """
    if not engine and compute_capability is not None:
        raise ConfigError(
            f"compute capability {compute_capability!r} applies only to an engine; "
            "give a file for the engine, or no compute capability"
        )
    if engine:
        if provider not in TENSORRT_NAMES:
            raise ConfigError(
                f"an engine requires provider {' or '.join(TENSORRT_NAMES)}, got {provider!r}; "
                "change the provider, or give no file for the engine"
            )
        return [TensorRT(provider, compute_capability=compute_capability)]
    asked = [name for name in TENSORRT_NAMES if provider in (name, "tensorrt")]
    return [library for name in asked if (library := _started(name)) is not None]


def _started(name: TensorRTName) -> TensorRT | None:
    try:
        return TensorRT(name)
    except InstallationError:
        return None


def why_not_asked(provider: str) -> str:
    """Return why the parser of a provider's own library cannot be asked about a graph.

    Args:
        provider: Name of the provider in `exportloss check`.

    Returns:
        Reason, with what to install; empty if the parser can be asked or the provider has none.
    """
    try:
        if provider in TENSORRT_NAMES:
            TensorRT(provider)
    except InstallationError as error:
        return str(error)
    return ""


class _NotBuiltError(Exception):
    """Aborts the writing of the file when the builder returned no engine."""


def _check_place(path: Path) -> None:
    """Check that writing an engine to a path would replace nothing but an engine.

    Raises:
        ArtifactError: The path exists and is not an engine.
    """
    if not os.path.lexists(path):
        return
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(_MARK) + 1)
    if head[1:] != _MARK:
        raise ArtifactError(
            f"{path} exists and is not an engine, so it is not replaced; choose another file"
        )


def _load(library: _Library) -> Any:
    """Return the module of the bindings.

    Raises:
        InstallationError: No package of the library is installed, or none can be loaded.
    """
    reason: Exception | None = None
    for package in filter(find_spec, library.packages):
        try:
            return import_module(package)
        except (ImportError, OSError) as error:
            reason = error
    state = "is not installed" if reason is None else f"cannot be loaded ({excerpt(reason, 200)})"
    raise InstallationError(f"{library.title} {state}; pip install {library.install}") from reason


def _logger_of(trt: Any) -> Any:
    """Return a logger that prints nothing and keeps the last node and the last error logged."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the bindings have no types
        def __init__(self) -> None:
            super().__init__()
            self.forget()

        def forget(self) -> None:
            self.node, self.error = ("", ""), ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.error = message
            elif match := _NODE.fullmatch(message):
                self.node = match.group(1), match.group(2)

    return Logger()

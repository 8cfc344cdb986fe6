"""Ask TensorRT's own ONNX parser what it takes, and its builder for an engine.

TensorRT for RTX does both on the CPU. TensorRT itself starts only where there is an NVIDIA GPU.
Neither torch nor onnx is needed.
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
from typing import Any, Literal, get_args

from exportloss.errors import ArtifactError, ConfigError, InstallationError, excerpt
from exportloss.runtime.storage.files import new_file

__all__ = ["TENSORRT_NAMES", "Engine", "ParserAnswer", "Refusal", "TensorRT", "installed"]

TensorRTName = Literal["tensorrt", "tensorrt-rtx"]
TENSORRT_NAMES: tuple[TensorRTName, ...] = get_args(TensorRTName)

_MARK = b"trt"  # how engines of every kind of TensorRT begin, behind a letter for the kind
_NODE = re.compile(r"Parsing node: (.*) \[(\w+)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Library:
    """Title, the packages that may bring it in the order to try, and how to install one."""

    title: str
    packages: tuple[str, ...]
    install: str


_LIBRARIES: Mapping[TensorRTName, _Library] = {
    "tensorrt": _Library(title="TensorRT", packages=("tensorrt",), install="tensorrt"),
    # The bindings alone load the libraries of tensorrt-rtx-cu13-libs.
    "tensorrt-rtx": _Library(
        title="TensorRT for RTX",
        packages=("tensorrt_rtx", "tensorrt_rtx_bindings"),
        install="tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that the parser, or the builder, does not take.

    Attributes:
        node: name of the node; "" where it is not one node's.
        operator: of the node; "" likewise.
        reason: in the library's words.
    """

    node: str
    operator: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine that was built: size in bytes, and the seconds that building took."""

    size: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParserAnswer:
    """What TensorRT makes of a graph.

    Attributes:
        provider: name of the library in `exportloss check`.
        library: name and version of the library that was asked.
        layers: number of layers that the graph became, up to the first refusal.
        refusals: reasons of the parser, which stops at the first node that it fails to convert,
            or of the builder; empty where the graph was taken.
        engine: the engine, where one was asked for and built.
    """

    provider: TensorRTName
    library: str
    layers: int
    refusals: tuple[Refusal, ...] = ()
    engine: Engine | None = None

    @property
    def passed(self) -> bool:
        """Whether the parser took the graph, and the builder, where it was asked."""
        return not self.refusals


class TensorRT:
    """A library that is installed here, ready to parse and to build.

    Args:
        provider: "tensorrt" or "tensorrt-rtx".
        compute_capability: of the GPUs that engines are for, such as "8.9"; TensorRT for RTX only.
            None leaves it to the library.

    Raises:
        InstallationError: the library is not installed, or cannot start on this machine.
        ConfigError: it builds no engines for that compute capability.
    """

    def __init__(self, provider: TensorRTName, *, compute_capability: str | None = None) -> None:
        self.provider = provider
        self._trt = _load(_LIBRARIES[provider])
        self.name = f"{_LIBRARIES[provider].title} {self._trt.__version__}"
        self._logger = _logger_of(self._trt)
        try:
            self._builder = self._trt.Builder(self._logger)
        except Exception as error:  # pybind's TypeError: there is no CUDA device
            raise InstallationError(
                f"{self.name} cannot start here: it needs an NVIDIA GPU and its driver. "
                "TensorRT for RTX needs none (pip install "
                f"{_LIBRARIES['tensorrt-rtx'].install}; --for tensorrt-rtx)"
            ) from error
        self._capability = self._find_capability(compute_capability)

    def parse(self, model: bytes, *, engine: str | Path | None = None) -> ParserAnswer:
        """Parse a graph in the element types that it has, and build its engine where asked.

        Args:
            model: content of an ONNX file, whose weights are inside.
            engine: file to write the engine to; None builds none. It is written only where the
                builder succeeds, and replaces an engine, but no other file.

        Raises:
            ArtifactError: the engine cannot be written, or something else lies there.
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
            if not operator:  # refused while it was converted, after all nodes were looked through
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
            with new_file(path) as temporary:  # first: building takes minutes
                start = time.perf_counter()
                plan = self._builder.build_serialized_network(network, config)
                seconds = time.perf_counter() - start
                if plan is None:
                    raise _NotBuiltError
                temporary.write_bytes(plan)
        except _NotBuiltError:
            reason = self._logger.error or "the builder gave no engine, and no reason"
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
            expected = f"one of {', '.join(names)}" if names else "none: it builds for the GPU here"
            raise ConfigError(
                f"{self.name} builds no engines for compute capability {text!r}; "
                f"expected {expected}"
            )
        return members[f"SM{text.replace('.', '')}"]


def installed(provider: str, *, engine: bool, compute_capability: str | None) -> list[TensorRT]:
    """Return the libraries to ask about a graph: the provider's own first, where it is installed.

    TensorRT for RTX is asked for `tensorrt` as well: it tells what it would refuse.

    Args:
        provider: as of `exportloss check`.
        engine: whether an engine is to be built, for which there must be a library.
        compute_capability: see `TensorRT`.

    Raises:
        InstallationError: an engine is to be built, and its library is not installed or cannot
            start. Without an engine such a library is skipped.
        ConfigError: an engine, or a compute capability, does not go with the other settings.
    """
    if not engine and compute_capability is not None:
        raise ConfigError(
            f"compute capability {compute_capability!r} applies only to an engine; "
            "give a file for the engine too"
        )
    if engine:
        if provider not in TENSORRT_NAMES:
            raise ConfigError(
                f"an engine is for provider {' or '.join(TENSORRT_NAMES)}, got {provider!r}"
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
        provider: as of `exportloss check`.

    Returns:
        The reason, and what to install; empty where the parser can be asked, or there is none.
    """
    try:
        if provider in TENSORRT_NAMES:
            TensorRT(provider)
    except InstallationError as error:
        return str(error)
    return ""


class _NotBuiltError(Exception):
    """Ends the writing of a file for which there is no engine."""


def _check_place(path: Path) -> None:
    """Check that an engine would replace no graph or image, say.

    Raises:
        ArtifactError: something else than an engine lies there.
    """
    if not os.path.lexists(path):
        return
    head = b""
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(len(_MARK) + 1)
    if head[1:] != _MARK:
        raise ArtifactError(f"{path} is no engine, and is not replaced by one; choose another file")


def _load(library: _Library) -> Any:
    """Return the bindings' module.

    Raises:
        InstallationError: no package of the library is installed, or none can be loaded.
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
    """Return a logger that prints nothing, and keeps the last node and the last error told."""

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

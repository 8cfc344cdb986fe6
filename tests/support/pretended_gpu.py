"""An onnxruntime that says it drives a GPU, and computes on the CPU: for what has none."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime

CUDA, TENSORRT, CPU = (f"{name}ExecutionProvider" for name in ("CUDA", "Tensorrt", "CPU"))


class _Options(onnxruntime.SessionOptions):
    """Notes what is asked for, and leaves out what the CPU alone cannot do."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, str] = {}

    def add_session_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value
        if name != "session.disable_cpu_ep_fallback":
            super().add_session_config_entry(name, value)


class PretendedGpu:
    """Takes the place of the onnxruntime package.

    Args:
        version: that it claims to be.
        drives: whether memory of the GPU can be had.
        said: what `preload_dlls` prints.
        providers: of a session, where not those that were asked for.
        nodes: how many each provider runs, by its name.
        error: what opening a session raises.
        lie: how much larger than they should be the outputs are, relatively.

    Attributes:
        opened: the options, provider names and provider settings of every session.
        runs: the captured graph that each run was for, where it was for one.
    """

    def __init__(
        self,
        *,
        version: str = "1.31.1",
        drives: bool = True,
        said: str = "",
        providers: list[str] | None = None,
        nodes: dict[str, int] | None = None,
        error: Exception | None = None,
        lie: float = 0.0,
    ) -> None:
        self.__version__, self.cuda_version = version, "13.0"
        self.opened: list[tuple[dict[str, str], list[str], list[dict[str, str]]]] = []
        self.runs: list[str] = []
        self.SessionOptions = _Options
        self.OrtValue = SimpleNamespace(
            ortvalue_from_shape_and_type=self._value,
            ortvalue_from_numpy=lambda array, *_: onnxruntime.OrtValue.ortvalue_from_numpy(array),
        )
        self._drives, self._said, self._error, self._lie = drives, said, error, lie
        self._providers, self._nodes = providers, nodes or {CUDA: 5000}

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, CPU]

    def preload_dlls(self) -> None:
        print(self._said)

    def InferenceSession(  # noqa: N802 - onnxruntime's name
        self,
        path: str,
        options: _Options,
        providers: list[str],
        settings: list[dict[str, str]],
        *,
        enable_fallback: int,
    ) -> Any:
        assert enable_fallback == 0
        if self._error is not None:
            raise self._error
        self.opened.append((options.entries, providers, settings))
        session = onnxruntime.InferenceSession(path, options, [CPU])
        pretended, runs = self._providers or [*providers, CPU], self.runs
        is_gpu = providers != [CPU]
        lie = self._lie if is_gpu else 0.0

        class Session:
            def __getattr__(self, name: str) -> Any:
                return getattr(session, name)

            def get_providers(self) -> list[str]:
                return pretended

            def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
                with contextlib.suppress(RuntimeError, AttributeError):  # no such entry
                    runs.append(run_options.get_run_config_entry("gpu_graph_id"))
                session.run_with_iobinding(binding, run_options)
                for value in binding.get_outputs() if lie else ():
                    if value.data_type() == "tensor(float)":
                        value.update_inplace(np.asarray(np.float32(1 + lie) * value.numpy()))

            def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
                return [np.float32(1 + lie) * value for value in session.run(names, inputs)]

            def get_provider_graph_assignment_info(self) -> list[SimpleNamespace]:
                return [
                    SimpleNamespace(ep_name=name, get_nodes=lambda n=count: [None] * n)
                    for name, count in nodes.items()
                ]

        nodes = self._nodes if is_gpu else {}
        return Session()

    def _value(self, shape: list[int], dtype: Any, memory: str, index: int) -> Any:
        assert memory in ("cpu", "cuda")
        if not self._drives:
            raise RuntimeError("CUDA Provider not available")
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cpu", 0)

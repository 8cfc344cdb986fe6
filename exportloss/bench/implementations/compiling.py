"""`torch.compile` and CUDA graphs, for the implementations that have them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from exportloss.bench.scenario import Scenario
from exportloss.errors import ConfigError, InstallationError

__all__ = ["captured", "compiled_function"]

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")
_WARM_UPS = 3  # as torch's documentation of CUDA graphs asks for


def compiled_function(function: Function, *, warm_up: Callable[[Function], object]) -> Function:
    """Compile a function now rather than on its first call.

    Args:
        function: Function to compile.
        warm_up: Function that calls it as it will be called.

    Raises:
        InstallationError: It cannot be compiled here, for example without a C++ compiler.
    """
    from torch._dynamo.exc import TorchDynamoException

    optimized: Any = torch.compile(function, fullgraph=True)
    try:
        warm_up(optimized)
    except (TorchDynamoException, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InstallationError(f"torch.compile failed: {reason}") from error
    compiled: Function = optimized
    return compiled


def captured(compute: Callable[[], Result], scenario: Scenario) -> Callable[[], Result]:
    """Capture a computation as a CUDA graph; return a function that replays it in place.

    Raises:
        ConfigError: The device is not a GPU.
    """
    if scenario.torch_device == "cpu":
        raise ConfigError("CUDA graphs need --device cuda")
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            compute()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        result = compute()
    torch.cuda.current_stream().wait_stream(side)

    def replay() -> Result:
        graph.replay()
        torch.cuda.synchronize()
        return result

    return replay

"""Steps of an engine beside those of ONNX Runtime's CPU provider, from the same states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from exportloss.runtime import TrainSession
from exportloss.runtime.sessions.portable_step import PortableTrainSession

__all__ = [
    "CASES",
    "assert_golden",
    "bounds",
    "differences_by_step",
    "golden_steps",
    "graph_step",
    "relative_l2",
]

Array = NDArray[Any]
CASES = ("sgd", "adamw", "frozen", "frozen-adamw", "anchor-free")


def bounds(case: str) -> dict[str, float]:
    """Most that each may be off, relative; L2 over all tensors as one vector.

    AdamW divides a gradient by its own size, at first to its sign: where it is nothing but
    rounding, the update is of full size all the same. After some such steps even the loss of these
    few images hangs on rounding.
    """
    if "adamw" in case:
        memories = {"exp_avg": 2e-4, "exp_avg_sq": 4e-4}
        return {"loss": 5e-6, "statistics": 1e-6, "parameters": 1e-4, **memories}
    return {"loss": 1e-6, "statistics": 1e-6, "parameters": 1e-6, "momentum": 2e-4}


def golden_steps(device: Path) -> Iterator[tuple[Path, str, dict[str, Array]]]:
    """Yield folder, name and values (by the graph's names) of every step of the golden cases."""
    paths = sorted((device / "golden").glob("*.safetensors"))
    assert paths, "no golden case was exported"
    for path in paths:
        values = load_file(path)
        for step in sorted({key.partition("/")[0] for key in values}):
            named = {k.partition("/")[2]: v for k, v in values.items() if k.startswith(f"{step}/")}
            yield path.with_suffix(""), f"{path.stem}, step {step}", named


def assert_golden(
    found: Mapping[str, Array], expected: Mapping[str, Array], name: str, *, loss_rtol: float = 1e-5
) -> None:
    """Hold loss, terms and gradients to the original's."""
    for output in ("loss", "items"):
        np.testing.assert_allclose(found[output], expected[output], rtol=loss_rtol, err_msg=name)
    gradients = [output for output in expected if output.startswith("gradient_")]
    assert gradients
    for output in gradients:
        assert relative_l2([found[output]], [expected[output]]) <= 1e-5, (name, output)


def relative_l2(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """L2 norm of the difference of several tensors, relative to what was expected."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(got, expected, strict=True)]
    norm = np.sqrt(sum(np.sum(b**2) for _, b in pairs))
    return float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in pairs)) / (norm or 1))


def differences_by_step(
    session: TrainSession, folder: Path, batches: Sequence[Any], settings: Mapping[str, Any]
) -> list[dict[str, float]]:
    """Train on each batch from the CPU's state; return relative differences from its results."""
    cpu = TrainSession.open(folder, threads=1)
    manifest = cpu.manifest
    statistics = [name for norm in manifest.statistics for name in (norm.mean, norm.var)]
    found = []
    for batch in batches:
        session.load_state(cpu.state())
        results = [one.step(*batch, **settings) for one in (session, cpu)]
        got, expected = session.state(), cpu.state()
        assert [result.skipped for result in results] == [False, False]

        def off(names: Sequence[str], mine: Mapping[str, Array], theirs: Any) -> float:
            return relative_l2([mine[n] for n in names], [theirs[n] for n in names])

        found.append(
            {
                "loss": abs(results[0].loss / results[1].loss - 1),
                "parameters": off(manifest.groups.all, got.model, expected.model),
                "statistics": off(statistics, got.model, expected.model),
                **{
                    memory: off(list(tensors), got.optimizer[memory], tensors)
                    for memory, tensors in expected.optimizer.items()
                },
            }
        )
    return found


def graph_step(
    session: PortableTrainSession, batch: Any, settings: Mapping[str, Any]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Train on a batch; return what `train_step.onnx` took, and what it gave, by name."""
    loop = session._loop
    before = {name: loop.read(name) for name in loop._state.now}
    session.step(*batch, **settings)
    settings_given = {name: np.array(value.numpy()) for name, value in loop._inputs.items()}
    after = {f"new_{name}": loop.read(name) for name in before}
    return before | settings_given, loop.fetch_outputs() | after

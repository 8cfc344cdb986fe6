"""Comparison of a device with ONNX Runtime's CPU provider, before the device is relied on.

Some engines return finite, plausible but wrong numbers without an error. Only a comparison on the
device itself shows it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import DeviceError
from exportloss.random_batches import draw_images
from exportloss.runtime.sessions.devices import CPU, Device
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.installation import import_onnxruntime

if TYPE_CHECKING:
    from exportloss.runtime.artifact.manifest import Manifest
    from exportloss.runtime.artifact.state import TrainState
    from exportloss.runtime.sessions.session import StepResult, TrainSession

__all__ = ["check_outputs", "check_training"]

AnyArray = npt.NDArray[Any]
Tensors = Mapping[str, AnyArray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Bounds:
    """Largest relative differences of a step.

    Attributes:
        loss: Of the loss, its terms, and the statistics.
        gradients: Of the optimizer state, which after one step is the gradient; L2.
        update: Of the change of the parameters, L2.
        outputs: Of an output of another graph, L2.
    """

    loss: float
    gradients: float
    update: float
    outputs: float


# Engines sum in different orders: relative differences of 1e-6 of the loss and 1e-4 of all
# gradients were measured. Wrong engines differed by 1e-3 of the loss and 0.1 of the gradients.
_FLOAT32 = _Bounds(loss=1e-5, gradients=1e-3, update=5e-2, outputs=1e-4)
# Rounding alone makes 4e-4 of the loss and half of the gradients: only gross errors can be told.
_BFLOAT16 = _Bounds(loss=2e-2, gradients=1.0, update=np.inf, outputs=5e-2)
_RATE = 1e-3
_CELLS = 4  # sides of the target boxes of a loss without anchors


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """A relative difference and its bound."""

    name: str
    difference: float
    bound: float


def check_training(session: TrainSession, reference: TrainSession, *, device: Device) -> None:
    """Compare one step from a session's state, which is restored afterwards.

    Args:
        session: Session on the device.
        reference: Session of the same artifact on the CPU; its state is changed.
        device: The device; in bfloat16 the bounds are wide.

    Raises:
        DeviceError: the loss, its terms, the statistics, the optimizer state (for the gradients)
            or the update of the parameters differ by more than rounding.
    """
    what, engine, bounds = "a training step", session.engine, _bounds(device)
    start, batch = session.state(), _batch(session.manifest)
    reference.load_state(start)
    results = [one.step(*batch, lr=_RATE, weight_decay=0.0) for one in (session, reference)]
    compared = [*_of_results(*results, bounds=bounds)]
    _compare(what, compared, device=str(device), engine=engine)
    states = [one.state() for one in (session, reference)]
    compared = [*_of_states(session.manifest, start, *states, bounds=bounds)]
    _compare(what, compared, device=str(device), engine=engine)
    session.load_state(start)


def check_outputs(
    path: Path,
    content: bytes,
    inputs: Tensors,
    outputs: Tensors,
    *,
    what: str,
    device: Device,
    engine: str,
    bound: float = 0.0,
) -> None:
    """Compare a device's outputs of a graph with the CPU's outputs for the same inputs.

    Args:
        path: ONNX file of the graph.
        content: Content of that file.
        inputs: Inputs by name.
        outputs: Outputs by name; some or all of the graph's.
        what: What was computed, for the message.
        device: The device; in bfloat16 the bound is wide.
        engine: Name and version of the engine that drives it.
        bound: Largest relative L2 difference per output, if it is above the device's own.

    Raises:
        DeviceError: an output differs by more.
    """
    session = open_graph(import_onnxruntime(), path, CPU, content=content)
    expected = session.run(list(outputs), dict(inputs))
    bound = max(bound, _bounds(device).outputs)
    quantities = [
        _Quantity(name, _relative_l2([got], [want]), bound)
        for (name, got), want in zip(outputs.items(), expected, strict=True)
    ]
    _compare(what, quantities, device=str(device), engine=engine)


def _bounds(device: Device) -> _Bounds:
    return _BFLOAT16 if device.bfloat16 else _FLOAT32


def _of_results(got: StepResult, expected: StepResult, *, bounds: _Bounds) -> Iterator[_Quantity]:
    yield _Quantity("loss", abs(got.loss - expected.loss) / abs(expected.loss), bounds.loss)
    items = [np.array(list(one.items.values())) for one in (got, expected)]
    yield _Quantity("loss terms", _relative_l2(items[:1], items[1:]), bounds.loss)
    yield _Quantity("skipped", float(got.skipped != expected.skipped), 0.0)


def _of_states(
    manifest: Manifest,
    start: TrainState,
    got: TrainState,
    expected: TrainState,
    *,
    bounds: _Bounds,
) -> Iterator[_Quantity]:
    def change(state: TrainState, names: Sequence[str]) -> list[AnyArray]:
        return [np.float64(state.model[name]) - start.model[name] for name in names]

    statistics = [name for norm in manifest.statistics for name in (norm.mean, norm.var)]
    values = ([state.model[name] for name in statistics] for state in (got, expected))
    yield _Quantity("statistics", _relative_l2(*values), bounds.loss)
    for kept, tensors in expected.optimizer.items():
        difference = _relative_l2(
            [got.optimizer[kept][name] for name in tensors], list(tensors.values())
        )
        yield _Quantity(f"gradients ({kept})", difference, bounds.gradients)
    trained = manifest.groups.all
    yield _Quantity(
        "update", _relative_l2(change(got, trained), change(expected, trained)), bounds.update
    )


def _batch(manifest: Manifest) -> tuple[AnyArray, AnyArray]:
    """Return random images, and target boxes of sizes with which all levels match."""
    rng = np.random.default_rng(0)
    images = draw_images(rng, manifest.batch_size, manifest.image_size)
    # Without anchors a box trains the level in whose cells it is a few cells wide.
    sides = manifest.anchors or [(_CELLS * side, _CELLS * side) for side in manifest.strides]
    sizes = np.array(sides, np.float64).reshape(-1, 2) / manifest.image_size[::-1]
    count = min(len(sizes), manifest.max_targets)
    # Spread over the levels if the graph takes fewer target rows than there are sizes.
    sizes = sizes[np.linspace(0, len(sizes) - 1, count).round().astype(int)]
    targets = np.column_stack(
        (
            np.arange(count) % manifest.batch_size,
            rng.integers(0, manifest.num_classes, count),
            rng.uniform(0.1, 0.9, (count, 2)),
            np.minimum(sizes, 1),
        )
    )
    return images, targets.astype(np.float32)


def _relative_l2(got: Sequence[AnyArray], expected: Sequence[AnyArray]) -> float:
    """Return the L2 norm of the difference, relative to that of the expected values."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(got, expected, strict=True)]
    difference = sum(float(np.sum((a - b) ** 2)) for a, b in pairs) ** 0.5
    norm = sum(float(np.sum(b**2)) for _, b in pairs) ** 0.5
    return float(difference / norm if norm else difference)


def _compare(what: str, quantities: Sequence[_Quantity], *, device: str, engine: str) -> None:
    """Refuse a device whose results differ from the CPU's by more than rounding.

    Args:
        what: What was computed, for the message.
        quantities: Differences from the CPU.
        device: Name of the device.
        engine: Name and version of the engine that drives it.

    Raises:
        DeviceError: a difference is above its bound, or NaN.
    """
    broken = [one for one in quantities if not one.difference <= one.bound]
    if broken:
        figures = ", ".join(
            f"{one.name} {one.difference:.1e} off (at most {one.bound:.0e})" for one in broken
        )
        raise DeviceError(
            f"{device} ({engine}) does not compute {what} as ONNX Runtime's CPU provider does: "
            f"{figures}, relative; its results were not used. Pass device='cpu', use another "
            "version of the engine, or pass self_check=False to use it regardless",
            argument="self_check",
        )

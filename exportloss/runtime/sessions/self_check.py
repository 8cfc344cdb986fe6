"""Whether a device computes what ONNX Runtime's CPU provider does, before it is relied on.

Engines were found that give finite, plausible numbers of another training, and say nothing of it.
Only a comparison on the very device tells.
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
from exportloss.runtime.sessions.devices import CPU
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.installation import import_onnxruntime

if TYPE_CHECKING:
    from exportloss.runtime.artifact.manifest import Manifest
    from exportloss.runtime.artifact.state import TrainState
    from exportloss.runtime.sessions.session import StepResult, TrainSession

__all__ = ["check_outputs", "check_training"]

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

# Engines add up in other orders: 1e-6 of a loss and 1e-4 of all gradients were seen. Wrong ones
# were off by 1e-3 of the loss and by a tenth of the gradients, or more.
_LOSS, _GRADIENTS, _UPDATE = 1e-5, 1e-3, 5e-2
_RATE = 1e-3


@dataclasses.dataclass(frozen=True)
class _Quantity:
    """A relative difference, and the most that it may be."""

    name: str
    difference: float
    bound: float


def check_training(session: TrainSession, reference: TrainSession, *, device: str) -> None:
    """Compare one step from the state that a session is in, and put that back.

    Args:
        session: on the device.
        reference: the same artifact on the CPU; its state is changed.
        device: name of the device.

    Raises:
        DeviceError: the loss, its terms, the statistics, the optimizer's memory (the gradients) or
            the update of the parameters are further apart than rounding.
    """
    what, engine = "a training step", session.engine
    start, batch = session.state(), _batch(session.manifest)
    reference.load_state(start)
    results = [one.step(*batch, lr=_RATE, weight_decay=0.0) for one in (session, reference)]
    _compare(what, [*_of_results(*results)], device=device, engine=engine)
    states = [one.state() for one in (session, reference)]
    _compare(what, [*_of_states(session.manifest, start, *states)], device=device, engine=engine)
    session.load_state(start)


def check_outputs(
    path: Path,
    content: bytes,
    inputs: Tensors,
    outputs: Tensors,
    *,
    what: str,
    device: str,
    engine: str,
    bound: float = 1e-4,
) -> None:
    """Compare what a device made of a graph's inputs with what the CPU makes of them.

    Args:
        path: of the graph.
        content: of that file.
        inputs: by name.
        outputs: by name, some of the graph's or all.
        what: was computed.
        device: name of the device.
        engine: what drives it, with its version.
        bound: most that an output may be off, L2, relative.

    Raises:
        DeviceError: an output is further off.
    """
    session = open_graph(import_onnxruntime(), path, CPU, content=content)
    expected = session.run(list(outputs), dict(inputs))
    quantities = [
        _Quantity(name, _relative_l2([got], [want]), bound)
        for (name, got), want in zip(outputs.items(), expected, strict=True)
    ]
    _compare(what, quantities, device=device, engine=engine)


def _of_results(got: StepResult, expected: StepResult) -> Iterator[_Quantity]:
    yield _Quantity("loss", abs(got.loss - expected.loss) / abs(expected.loss), _LOSS)
    items = [np.array(dataclasses.astuple(one.items)) for one in (got, expected)]
    yield _Quantity("loss terms", _relative_l2(items[:1], items[1:]), _LOSS)
    yield _Quantity("skipped", float(got.skipped != expected.skipped), 0.0)


def _of_states(
    manifest: Manifest, start: TrainState, got: TrainState, expected: TrainState
) -> Iterator[_Quantity]:
    def change(state: TrainState, names: Sequence[str]) -> list[Array]:
        return [np.float64(state.model[name]) - start.model[name] for name in names]

    statistics = [name for norm in manifest.statistics for name in (norm.mean, norm.var)]
    values = ([state.model[name] for name in statistics] for state in (got, expected))
    yield _Quantity("statistics", _relative_l2(*values), _LOSS)
    for memory, tensors in expected.optimizer.items():
        difference = _relative_l2(
            [got.optimizer[memory][name] for name in tensors], list(tensors.values())
        )
        yield _Quantity(f"gradients ({memory})", difference, _GRADIENTS)
    trained = manifest.groups.all
    yield _Quantity(
        "update", _relative_l2(change(got, trained), change(expected, trained)), _UPDATE
    )


def _batch(manifest: Manifest) -> tuple[Array, Array]:
    """Noise, and a box of each anchor's size, so that every level has matches."""
    rng = np.random.default_rng(0)
    images = draw_images(rng, manifest.batch_size, manifest.image_size)
    sizes = np.array(manifest.anchors, np.float64).reshape(-1, 2) / manifest.image_size[::-1]
    count = min(len(sizes), manifest.max_targets)
    # Evenly over the levels, where there are fewer slots than anchors.
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


def _relative_l2(got: Sequence[Array], expected: Sequence[Array]) -> float:
    """Return the L2 norm of the difference, relative to that of what was expected."""
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(got, expected, strict=True)]
    difference = sum(float(np.sum((a - b) ** 2)) for a, b in pairs) ** 0.5
    norm = sum(float(np.sum(b**2)) for _, b in pairs) ** 0.5
    return float(difference / norm if norm else difference)


def _compare(what: str, quantities: Sequence[_Quantity], *, device: str, engine: str) -> None:
    """Refuse a device that is further from the CPU than rounding.

    Args:
        what: was computed.
        quantities: differences from the CPU.
        device: its name.
        engine: what drives it, with its version.

    Raises:
        DeviceError: a difference is above its bound, or no number.
    """
    broken = [one for one in quantities if not one.difference <= one.bound]
    if broken:
        figures = ", ".join(
            f"{one.name} {one.difference:.1e} off (at most {one.bound:.0e})" for one in broken
        )
        raise DeviceError(
            f"{device} ({engine}) does not compute {what} as ONNX Runtime's CPU provider does: "
            f"{figures}, relative; nothing was done with it. Use --device cpu or another version "
            "of the engine; --no-self-check (self_check=False) takes it regardless"
        )

"""Train in ONNX Runtime and in eager torch side by side, and measure how far they are apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from exportloss.errors import ConfigError
from exportloss.export.comparison import Step, compare
from exportloss.export.differences import relative, whole_l2, worst_l2
from exportloss.export.eager_session import EagerTrainSession, torch_threads
from exportloss.export.verification import Bounds, StepDifferences, Verification
from exportloss.runtime.manifest import Manifest
from exportloss.runtime.session import TrainSession
from exportloss.runtime.state import TrainState

__all__ = ["verify"]

Array = npt.NDArray[np.float32]

_BOXES_AN_IMAGE = 8

# What a state is moved by, relative, to see what rounding does to a gradient, and how often.
_ROUNDING = 2.0**-22
_MOVES = 4
_MOST_DRAWS = 20  # for one batch


def verify(
    folder: str | Path,
    *,
    steps: int = 5,
    lr: float = 5e-4,
    seed: int = 0,
    threads: int | None = None,
    model: nn.Module | None = None,
) -> Verification:
    """Train a few steps on random pictures and targets, with the artifact and in eager torch.

    The reference is eager torch in float64, with the loss's original dynamic shapes: what is
    measured is the artifact's own error and not the sum of two.

    Twice: first every step from the same state (weights, statistics, optimizer memory and
    objectness weights of the eager run are loaded into the session before each step), which shows
    what one step does; then each engine on its own, which shows how fast the two drift apart.

    The gradient of a detector jumps where two pixels under a max-pool are equal, or an edge of a
    predicted box meets one of its target's. Where a batch lies so close to a jump that rounding
    decides, no float32 engine can be judged by it, torch's included. So a batch is drawn anew
    where eager torch alone, from states moved by rounding errors, disagrees with itself; the
    artifact has no part in that choice, and the result says how many batches were passed over.

    The gradient is read through the session's own interface: after a step with empty memory,
    without momentum and decay and at a rate of 0, the optimizer's first memory is the gradient.

    Args:
        folder: an artifacts folder that trains; the weights are those it was exported with.
        steps: how many, >= 1.
        lr: learning rate of all groups, >= 0.
        seed: of pictures and targets, >= 0.
        threads: of both engines; None leaves each at its default.
        model: what was exported, where it is none of `exportloss.models`.

    Raises:
        ArtifactError: the folder is no artifact, is damaged, does not train, or `model` is
            another model.
        ConfigError: an argument is out of range, or no batch suits these weights.
        InstallationError: the installed onnxruntime cannot run it.
    """
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name} is {value}; expected at least {least}")
    session = TrainSession.open(folder, threads=threads)
    manifest = session.manifest
    eager = EagerTrainSession(session.folder, manifest, model=model, dtype=torch.float64)
    start = session.state()
    eager.load_state(start)
    bounds = Bounds.of(manifest.optimizer)
    with torch_threads(threads):
        rows = [
            _same_state(session, eager, bounds, lr=lr, seed=(seed, step)) for step in range(steps)
        ]
    session.load_state(start)
    free = [session.step(row.batch.images, row.batch.targets, lr=lr).loss for row in rows]
    return Verification(
        manifest=manifest,
        bounds=bounds,
        steps=tuple(
            # In the first run eager torch went its own way already.
            dataclasses.replace(row.differences, free_loss=relative(loss, row.eager_loss))
            for row, loss in zip(rows, free, strict=True)
        ),
        passed_over=sum(row.passed_over for row in rows),
    )


@dataclasses.dataclass(frozen=True)
class _Batch:
    images: npt.NDArray[np.uint8]  # (B, 3, H, W)
    targets: Array  # (n, 6)


@dataclasses.dataclass(frozen=True)
class _Row:
    batch: _Batch
    differences: StepDifferences
    eager_loss: float
    passed_over: int


def _random_batch(manifest: Manifest, seed: Sequence[int]) -> _Batch:
    """Draw noise and boxes of every size, some of them over the border."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    batch, shape = manifest.batch_size, (manifest.batch_size, 3, *manifest.image_size)
    most = min(manifest.max_targets, _BOXES_AN_IMAGE * batch)
    count = int(rng.integers(-(-most // 2), most + 1))
    targets = np.empty((count, 6), np.float32)
    targets[:, 0] = np.sort(rng.integers(0, batch, count))
    targets[:, 1] = rng.integers(0, manifest.num_classes, count)
    targets[:, 2:4] = rng.uniform(0, 1, (count, 2))
    targets[:, 4:] = rng.uniform(0.02, 0.6, (count, 2))
    return _Batch(rng.integers(0, 256, shape, dtype=np.uint8), targets)


def _same_state(
    session: TrainSession,
    eager: EagerTrainSession,
    bounds: Bounds,
    *,
    lr: float,
    seed: tuple[int, int],
) -> _Row:
    """Step in both from the eager state, which then goes on."""
    before = eager.state()
    for draw in range(_MOST_DRAWS):
        batch = _random_batch(eager.manifest, (*seed, draw))
        expected = _eager_step(eager, before, batch, lr=lr)
        if not _jumps(eager, before, batch, expected.gradients, bounds):
            break
    else:
        raise ConfigError(
            f"the gradient of {eager.manifest.model} jumps under rounding errors for each of "
            f"{_MOST_DRAWS} random batches, so that nothing can be verified with these weights; "
            "try another seed, a larger batch or other weights"
        )
    expected = _eager_step(eager, before, batch, lr=lr)
    gradients = _gradients(session, before, batch)
    session.load_state(before)
    result = session.step(batch.images, batch.targets, lr=lr)
    got = Step.of(result, gradients, session.state())
    return _Row(batch, compare(got, expected), expected.result.loss, draw)


def _jumps(
    eager: EagerTrainSession,
    state: TrainState,
    batch: _Batch,
    gradients: Mapping[str, Array],
    bounds: Bounds,
) -> bool:
    """Whether rounding errors in the weights alone move eager torch's gradient over a bound."""
    for seed in range(_MOVES):
        moved = _eager_step(eager, _moved(state, seed=seed), batch, lr=0.0).gradients
        if (
            worst_l2(moved, gradients).value > bounds.gradient
            or whole_l2(moved, gradients).value > bounds.gradient_whole
        ):
            return True
    return False


def _eager_step(eager: EagerTrainSession, state: TrainState, batch: _Batch, *, lr: float) -> Step:
    eager.load_state(state)
    result = eager.step(batch.images, batch.targets, lr=lr)
    return Step.of(result, eager.gradients(), eager.state())


def _moved(state: TrainState, *, seed: int) -> TrainState:
    """Move every weight by about a rounding error."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    model = {
        name: (tensor * (1 + _ROUNDING * rng.uniform(-1, 1, tensor.shape))).astype(np.float32)
        for name, tensor in state.model.items()
    }
    return dataclasses.replace(state, model=model)


def _gradients(session: TrainSession, state: TrainState, batch: _Batch) -> Mapping[str, Array]:
    empty = {
        memory: {name: np.zeros_like(tensor) for name, tensor in entries.items()}
        for memory, entries in state.optimizer.items()
    }
    session.load_state(dataclasses.replace(state, optimizer=empty, updates=0))
    session.step(batch.images, batch.targets, lr=0.0, momentum=0.0, weight_decay=0.0)
    return next(iter(session.state().optimizer.values()))

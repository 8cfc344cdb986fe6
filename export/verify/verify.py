"""Training in ONNX Runtime and in eager torch side by side, with the differences measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.export.verify.differences import relative, whole_l2, worst_l2
from exportloss.export.verify.eager_session import EagerTrainSession, torch_threads
from exportloss.export.verify.report import Bounds, StepDifferences, Verification
from exportloss.export.verify.settings import LEARNING_RATE, SEED, STEPS
from exportloss.export.verify.trajectories import StepOutcome, compare
from exportloss.random_batches import draw_images, draw_targets
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.sessions.session import StepResult, TrainSession

__all__ = ["verify", "verify_all"]

Array = npt.NDArray[np.float32]

_BOXES_PER_IMAGE = 8

# Size and number of the relative perturbations of a state that show the effect of rounding on a
# float32 gradient.
_ROUNDING = 2.0**-22
_MOVES = 4
_MOST_DRAWS = 20  # per batch

# YOLOv5's decay starts near 0, where the average merely equals the weights.
_EMA_DECAY = 0.5


def verify(
    folder: str | Path,
    *,
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    seed: int = SEED,
    threads: int | None = None,
    device: str = "cpu",
    model: nn.Module | None = None,
) -> Verification:
    """Train a few steps on random images and targets, with the artifact and in eager torch.

    The reference is eager torch in float64, with the loss's original dynamic shapes, so that only
    the artifact's error is measured, not the sum of two errors.

    There are two runs. In the first, each step starts from the same state: weights, statistics,
    optimizer state and objectness weights of the eager run are loaded into the session before it.
    This measures the error of one step. In the second, each engine continues from its own state,
    which shows how fast the two drift apart.

    The gradient of a detector jumps where two pixels under a max-pool are equal, or where an edge
    of a predicted box meets an edge of its target's. If a batch is so close to a jump that rounding
    decides, it cannot serve to judge any float32 engine, torch included. So a batch is skipped and
    another one drawn if eager torch in float32, from states perturbed by rounding errors, exceeds a
    bound. The artifact does not influence that choice. The result has the number of skipped
    batches.

    The gradient is read through the session's interface, after a step without an update.

    Args:
        folder: Artifacts folder that trains, with the weights it was exported with.
        steps: Number of steps, >= 1.
        lr: Learning rate of all groups, >= 0.
        seed: Seed of images and targets, >= 0.
        threads: Number of threads of both engines; None leaves each at its default.
        device: Device on which the artifact trains, as for `TrainSession.open`.
        model: Module that was exported, if not built by `exportloss.models`.

    Raises:
        ArtifactError: the folder is not an artifact, is damaged or does not train, or `model` is
            not the one that was exported.
        ConfigError: an argument is out of range, or no batch suits these weights.
        InstallationError: the installed onnxruntime cannot run the artifact.
    """
    return verify_all(
        [folder], steps=steps, lr=lr, seed=seed, threads=threads, device=device, model=model
    )[0]


def verify_all(
    folders: Sequence[str | Path],
    *,
    steps: int = STEPS,
    lr: float = LEARNING_RATE,
    seed: int = SEED,
    threads: int | None = None,
    device: str = "cpu",
    model: nn.Module | None = None,
) -> tuple[Verification, ...]:
    """Verify several artifacts of one detector on the same batches, in about the time of one.

    Arguments and errors as for `verify`.

    Raises:
        ConfigError: there is no folder, or the artifacts belong to different trainings.
    """
    at_least(1, steps=steps, folders=len(folders))
    at_least(0, seed=seed)
    sessions = [
        TrainSession.open(one, device=device, threads=threads, self_check=False) for one in folders
    ]
    manifest = sessions[0].manifest
    if manifest.precision != "float32":
        raise ConfigError(
            f"got artifacts of precision {manifest.precision}, expected float32, to which the "
            "bounds apply; verify an export with precision float32"
        )
    for session in sessions[1:]:
        if _training(session.manifest) != _training(manifest):
            raise ConfigError(
                f"{session.folder} and {sessions[0].folder} differ in detector or training "
                "settings, expected the same; verify them one by one"
            )
    eager, single = (
        EagerTrainSession(sessions[0].folder, manifest, model=model, dtype=dtype)
        for dtype in (torch.float64, torch.float32)
    )
    start = sessions[0].state()
    eager.load_state(start)
    bounds = Bounds.of(manifest.optimizer)
    rows: list[_Reference] = []
    found: list[list[StepDifferences]] = [[] for _ in sessions]
    with torch_threads(threads):
        for step in range(steps):
            reference = _reference(eager, single, bounds, lr=lr, seed=(seed, step))
            for session, differences in zip(sessions, found, strict=True):
                differences.append(_same_state(session, reference, lr=lr))
            rows.append(reference.without_state())
    return tuple(
        Verification(
            manifest=session.manifest,
            bounds=bounds,
            steps=tuple(_free_run(session, start, rows, differences, lr=lr)),
            passed_over=sum(row.passed_over for row in rows),
        )
        for session, differences in zip(sessions, found, strict=True)
    )


def _training(manifest: Manifest) -> tuple[object, ...]:
    """Return the settings that two artifacts must share to train alike from the same state."""
    return (
        *(manifest.model, manifest.names, manifest.anchors, manifest.strides, manifest.loss),
        *(manifest.image_size, manifest.batch_size, manifest.max_targets),
        *(manifest.optimizer, manifest.groups, manifest.statistics, manifest.ema),
        manifest.precision,
    )


def _free_run(
    session: TrainSession,
    start: TrainState,
    rows: Sequence[_Reference],
    differences: Sequence[StepDifferences],
    *,
    lr: float,
) -> Iterator[StepDifferences]:
    """Run a session from the start on its own; add the differences of its losses."""
    session.load_state(start)
    for row, difference in zip(rows, differences, strict=True):
        loss = _step(session, row.batch, lr=lr).loss
        yield dataclasses.replace(difference, free_loss=relative(loss, row.eager_loss))


@dataclasses.dataclass(frozen=True)
class _Batch:
    images: npt.NDArray[np.uint8]  # (B, 3, H, W)
    targets: Array  # (n, 6)


@dataclasses.dataclass(frozen=True)
class _Reference:
    """A step of eager torch, with its batch and the state before it."""

    batch: _Batch
    eager_loss: float
    passed_over: int
    before: TrainState | None
    expected: StepOutcome | None

    def without_state(self) -> _Reference:
        """Drop what the free run does not need: gigabytes for a large detector."""
        return dataclasses.replace(self, before=None, expected=None)


def _random_batch(manifest: Manifest, seed: Sequence[int]) -> _Batch:
    """Draw noise images and boxes of all sizes, some of which reach past the border."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    batch_size = manifest.batch_size
    most = min(manifest.max_targets, _BOXES_PER_IMAGE * batch_size)
    count = int(rng.integers(-(-most // 2), most + 1))
    targets = draw_targets(rng, count, batch_size=batch_size, num_classes=manifest.num_classes)
    return _Batch(draw_images(rng, batch_size, manifest.image_size), targets)


def _reference(
    eager: EagerTrainSession,
    single: EagerTrainSession,
    bounds: Bounds,
    *,
    lr: float,
    seed: tuple[int, int],
) -> _Reference:
    """Advance eager torch by one step, on a batch by which float32 engines can be judged.

    Args:
        eager: Reference session in float64, which keeps the state after the step.
        single: Eager session in float32.
        bounds: Bounds that float32 must keep.
        lr: Learning rate of the step.
        seed: Seed of the batch.
    """
    before = eager.state()
    for draw in range(_MOST_DRAWS):
        batch = _random_batch(eager.manifest, (*seed, draw))
        expected = _eager_step(eager, before, batch, lr=lr)
        if not _jumps(single, before, batch, expected.gradients, bounds):
            return _Reference(batch, expected.result.loss, draw, before, expected)
    raise ConfigError(
        f"rounding errors move the gradient of {eager.manifest.model} over a bound for each of "
        f"{_MOST_DRAWS} random batches, so nothing can be verified with these weights; "
        "try another seed, a larger batch or other weights"
    )


def _same_state(session: TrainSession, reference: _Reference, *, lr: float) -> StepDifferences:
    """Make the step of eager torch, from the same state, and compare the two."""
    before, batch, expected = reference.before, reference.batch, reference.expected
    assert before is not None and expected is not None
    gradients = _gradients(session, before, batch)
    session.load_state(before)
    result = _step(session, batch, lr=lr)
    return compare(StepOutcome.of(result, gradients, session.state()), expected)


def _jumps(
    single: EagerTrainSession,
    state: TrainState,
    batch: _Batch,
    gradients: Mapping[str, Array],
    bounds: Bounds,
) -> bool:
    """Return whether rounding errors move eager torch's own gradient over a bound."""
    for seed in range(_MOVES):
        moved = _eager_step(single, _moved(state, seed=seed), batch, lr=0.0).gradients
        if (
            worst_l2(moved, gradients).value > bounds.gradient
            or whole_l2(moved, gradients).value > bounds.gradient_whole
        ):
            return True
    return False


def _step(session: TrainSession, batch: _Batch, *, lr: float) -> StepResult:
    decay = _EMA_DECAY if session.manifest.ema else None
    return session.step(batch.images, batch.targets, lr=lr, ema_decay=decay)


def _eager_step(
    eager: EagerTrainSession, state: TrainState, batch: _Batch, *, lr: float
) -> StepOutcome:
    eager.load_state(state)
    result = _step(eager, batch, lr=lr)
    return StepOutcome.of(result, eager.gradients(), eager.state())


def _moved(state: TrainState, *, seed: int) -> TrainState:
    """Perturb every weight by about a rounding error."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    model = {
        name: (tensor * (1 + _ROUNDING * rng.uniform(-1, 1, tensor.shape))).astype(np.float32)
        for name, tensor in state.model.items()
    }
    return dataclasses.replace(state, model=model)


def _gradients(session: TrainSession, state: TrainState, batch: _Batch) -> Mapping[str, Array]:
    session.load_state(state)
    session.step(batch.images, batch.targets, lr=0.0, update=False)
    return session.gradients()

"""`TrainSession`: one interface over every kind of artifact that trains."""

from __future__ import annotations

import abc
import dataclasses
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, DataError, TrainingError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import (
    TrainState,
    check_description,
    load_state,
    save_state,
    take_state,
)
from exportloss.runtime.artifact.state_checks import check_same_model, check_values
from exportloss.runtime.artifact.tensor_file import read_tensor_file
from exportloss.runtime.optimizers.ema import decay_after
from exportloss.runtime.optimizers.table import LOSS_SCALE, Hyperparameters
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.step_checks import check_hyperparameters
from exportloss.runtime.sessions.step_results import Evaluation, Images, LossTerms, StepResult
from exportloss.targets import pad_targets

__all__ = ["Evaluation", "Images", "LossTerms", "StepResult", "TrainSession"]

Rates = float | tuple[float, float, float]


class OpenSession(Protocol):
    """Signature of `exportloss.runtime.sessions.registry.open_session`, which see."""

    def __call__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        cuda_graph: bool | None = None,
        tf32: bool = False,
        self_check: bool = True,
    ) -> TrainSession:
        """Open an artifacts folder."""


class TrainSession(abc.ABC):
    """A detector in training on this device.

    Open one with `TrainSession.open(folder)`. A session holds all of its state; `save` and
    `resume` carry it over, between sessions and between kinds of artifact. Threads may share one:
    each call waits for the one before it.
    """

    # Set by `registry`, which knows the sessions of all kinds: a base class cannot import them.
    open: ClassVar[OpenSession]

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._lock = threading.RLock()
        self.folder = folder
        self.manifest = manifest
        self._due = 0  # optimizer steps, done or skipped

    @exclusive
    def step(
        self,
        images: Images,
        targets: npt.ArrayLike,
        *,
        lr: Rates,
        momentum: float = 0.937,
        weight_decay: float = 5e-4,
        max_norm: float = math.inf,
        update: bool = True,
        ema_decay: float | None = None,
        loss_scale: float = LOSS_SCALE,
    ) -> StepResult:
        """Train on a batch, or change nothing where that would not be finite (`skipped`).

        Args:
            images: (B, 3, H, W) RGB: uint8 in 0 to 255; training artifacts also take float32 in
                [0, 1].
            targets: (n, 6) rows image, class, x, y, width, height, as `exportloss.pad_targets`
                takes them, n <= `max_targets`; (0, 6) for none.
            lr: learning rate in [0, 1000], one for all or one each for weights, norms and biases.
            momentum: momentum of SGD, or first beta of Adam and AdamW, in [0, 1).
            weight_decay: decay of the weights, in [0, 1000].
            max_norm: L2 norm that the gradients are scaled down to, > 0; infinity for none.
            update: whether to update the weights. False only adds to the gradients; the next step
                that updates uses the sum. A skipped step adds nothing to it, and leaves it for the
                next update.
            ema_decay: fraction of the moving average that an update leaves, in [0, 1]; None
                is YOLOv5's (`optimizers.ema.decay_after`). For artifacts that keep an average.
            loss_scale: factor for float16 artifacts, > 0: the loss is multiplied by it, so that
                small gradients are not 0, and the gradients divided. After a skipped step, use a
                smaller one.

        Returns:
            The loss, its terms, and whether the step was skipped.

        Raises:
            DataError: the images have another type or shape than the graph.
            TargetError: a target row cannot be trained on.
            TooManyTargetsError: there are more rows than `max_targets`.
            ConfigError: a rate is out of range, or the artifacts keep no average that could decay.
        """
        rates = np.broadcast_to(np.asarray(lr, np.float64), 3).tolist()
        hyper = Hyperparameters(
            lr=(rates[0], rates[1], rates[2]),
            momentum=momentum,
            weight_decay=weight_decay,
            max_norm=max_norm,
            ema_decay=self._ema_decay(ema_decay),
            loss_scale=loss_scale,
        )
        check_hyperparameters(hyper)
        result = self._step(self._images(images), self._targets(targets), hyper if update else None)
        self._due += update
        return result

    @exclusive
    def evaluate(self, images: Images, targets: npt.ArrayLike, *, ema: bool = False) -> Evaluation:
        """Compute loss and predictions; arguments and errors as for `step`.

        Args:
            images: (B, 3, H, W) RGB, as for `step`.
            targets: (n, 6) rows, as for `step`.
            ema: whether to use the moving average of the weights and statistics.
        """
        self._check_ema(ema)
        return self._evaluate(self._images(images), self._targets(targets), ema=ema)

    @exclusive
    def save(self, path: str | Path) -> None:
        """Write the whole state to one file, atomically.

        Its metadata names the detector, its classes and anchors. The file that was there stays
        whole until the new one is.

        Args:
            path: safetensors file to write.

        Raises:
            ArtifactError: it cannot be written.
            TrainingError: weights or statistics are not finite.
        """
        state = self.state()
        try:
            check_values(state, "the session")
        except ArtifactError as error:
            raise TrainingError(
                f"{error}: nothing was written to {path}. Train with a lower learning rate or "
                "weight decay; what was saved before stays"
            ) from error
        save_state(path, state, manifest=self.manifest)

    @exclusive
    def resume(self, path: str | Path) -> Self:
        """Continue from a saved state, bit for bit.

        Args:
            path: file that `save` wrote, of either kind of artifact.

        Returns:
            The session itself.

        Raises:
            ArtifactError: the file is missing, damaged, or of another model.
        """
        state = load_state(path)
        self._take(state, str(path))
        return self

    def start_from(self, path: str | Path) -> Self:
        """Begin a new training from the weights and statistics of an earlier one.

        Its moving average is taken where it kept one, since that is what was judged; the optimizer
        starts afresh, and no update counts as done.

        Args:
            path: file that `save` wrote.

        Returns:
            The session itself.

        Raises:
            ArtifactError: the file is missing, damaged, or of another model.
            ConfigError: it is of other classes or anchors, or the session has made updates already.
        """
        own = self.state()
        if own.updates:
            raise ConfigError(f"the session has made {own.updates} updates already; open a new one")
        file = read_tensor_file(path)
        state = take_state(file, path)
        check_description(file.about, path, self.manifest)
        model = {**state.model, **state.ema}
        average = {name: model[name] for name in own.ema if name in model}
        self._take(dataclasses.replace(own, model=model, ema=average), str(path))
        return self

    @property
    @abc.abstractmethod
    def engine(self) -> str:
        """Name and version of the engine that computes the steps."""

    @property
    @abc.abstractmethod
    def updates(self) -> int:
        """Optimizer steps done."""

    @property
    def skipped(self) -> int:
        """Optimizer steps that were due but skipped, as they would not have been finite."""
        return self._due - self.updates

    @abc.abstractmethod
    def state(self) -> TrainState:
        """Return a copy of the state."""

    @abc.abstractmethod
    def gradients(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """Copy the gradients added up by steps that did not update, by parameter."""

    @exclusive
    def load_state(self, state: TrainState) -> None:
        """Take over a state of the same model; gradients that had been added up are dropped.

        Raises:
            ArtifactError: it is of another model, or holds what is not finite; the session stays
                as it was.
        """
        self._take(state, "the state")

    def _take(self, state: TrainState, source: str) -> None:
        check_values(state, source)
        check_same_model(state, self.state(), source)
        self._load_state(state)

    @abc.abstractmethod
    def _load_state(self, state: TrainState) -> None: ...

    @abc.abstractmethod
    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out.

        `images` is (B, 3, H, W) float32 in [0, 1], `output0` (B, N, 5 + nc) as in `Evaluation`.

        Args:
            path: file to write; replaced if it is there.
            ema: whether to use the moving average of the weights and statistics.

        Raises:
            ArtifactError: the file cannot be written.
            ConfigError: the artifacts keep no average.
        """

    @abc.abstractmethod
    def _step(
        self,
        images: Images,
        targets: npt.NDArray[np.float32],
        hyper: Hyperparameters | None,
    ) -> StepResult: ...

    @abc.abstractmethod
    def _evaluate(
        self, images: Images, targets: npt.NDArray[np.float32], *, ema: bool
    ) -> Evaluation: ...

    def _ema_decay(self, given: float | None) -> float:
        if given is None:
            return decay_after(self.updates + 1) if self.manifest.ema else 0.0
        self._check_ema(True)
        if not 0 <= given <= 1:
            raise ConfigError(f"ema_decay is {given}; expected in [0, 1]")
        return given

    def _check_ema(self, wanted: bool) -> None:
        if wanted and not self.manifest.ema:
            raise ConfigError(
                f"{self.folder} keeps no moving average of the weights; export it with --ema "
                "(ema=True), or do without"
            )

    def _images(self, images: Images) -> Images:
        """Check images and turn them into what the graph takes: float32 in [0, 1]."""
        self._check_image_shape(images)
        if images.dtype == np.uint8:
            return images.astype(np.float32) / np.float32(255)
        if images.dtype == np.float32:
            return np.ascontiguousarray(images)
        raise DataError(f"images are {images.dtype}; expected uint8 (0 to 255) or float32 (0 to 1)")

    def _check_image_shape(self, images: Images) -> None:
        expected = (self.manifest.batch_size, 3, *self.manifest.image_size)
        if not isinstance(images, np.ndarray) or images.shape != expected:
            raise DataError(
                f"images have shape {getattr(images, 'shape', None)}; the graph was exported for "
                f"{expected}: letterbox and batch them so, or export again"
            )

    def _no_boxes(self) -> npt.NDArray[np.float32]:
        """What a model without a `decode` predicts."""
        manifest = self.manifest
        return np.zeros((manifest.batch_size, 0, 5 + manifest.num_classes), np.float32)

    def _targets(self, targets: npt.ArrayLike) -> npt.NDArray[np.float32]:
        return pad_targets(
            targets,
            self.manifest.max_targets,
            batch_size=self.manifest.batch_size,
            num_classes=self.manifest.num_classes,
        )

"""`TrainSession`: one interface over every kind of artifact that trains."""

from __future__ import annotations

import abc
import dataclasses
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, TrainingError
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
from exportloss.runtime.sessions.checks.step_checks import (
    Rates,
    check_gradients,
    checked_hyperparameters,
    scaled_images,
)
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.shared_weights import SharedWeights
from exportloss.runtime.sessions.step_results import Evaluation, Images, LossTerms, StepResult
from exportloss.targets import pad_targets

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Evaluation", "Images", "LossTerms", "StepResult", "TrainSession"]


class OpenSession(Protocol):
    """Signature of `exportloss.runtime.sessions.registry.open_session`."""

    def __call__(
        self,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        cuda_graph: bool | None = None,
        tf32: bool = False,
        self_check: bool = True,
        evaluation_only: bool = False,
    ) -> TrainSession:
        """Open an artifacts folder."""


class TrainSession(SharedWeights):
    """A detector in training on this device.

    Open one with `TrainSession.open(folder)`. A session holds all of its state; `save` and
    `resume` carry it over between sessions and between kinds of artifact. Threads may share a
    session: each call waits for the one before it.
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
        """Train on a batch; a step whose results would not be finite is skipped.

        Args:
            images: (B, 3, H, W) RGB images: uint8 in 0 to 255; training artifacts also take
                float32 in [0, 1].
            targets: (n, 6) target rows: image, class, x, y, width, height, as
                `exportloss.pad_targets` takes them, n <= `max_targets`; (0, 6) for none.
            lr: Learning rate in [0, 1000]: one for all parameters, or one each for weights, norms
                and biases.
            momentum: Momentum of SGD and RMSProp, or first beta of Adam and AdamW, in [0, 1).
            weight_decay: Decay of the weights, in [0, 1000].
            max_norm: L2 norm that the gradients are scaled down to, > 0; infinity for no limit.
            update: Whether to update the weights. False only accumulates gradients; the next step
                that updates uses the sum. A skipped step adds nothing to the sum and keeps it for
                the next update.
            ema_decay: Fraction of the moving average that an update keeps, in [0, 1], for
                artifacts with an average; None for YOLOv5's (`optimizers.ema.decay_after`).
            loss_scale: Factor for float16 artifacts, > 0. The loss is multiplied by it, so that
                small gradients do not become 0, and the gradients are divided by it. Use a smaller
                one after a skipped step.

        Returns:
            The loss, its terms, and whether the step was skipped.

        Raises:
            DataError: the type or shape of the images differs from the graph's.
            TargetError: a target row cannot be trained on.
            TooManyTargetsError: there are more rows than `max_targets`.
            ConfigError: a rate is out of range, or `ema_decay` is given and the artifacts keep no
                moving average.
        """
        hyper = checked_hyperparameters(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            max_norm=max_norm,
            ema_decay=self._ema_decay(ema_decay),
            loss_scale=loss_scale,
        )
        result = self._step(self._images(images), self._targets(targets), hyper if update else None)
        self._due += update
        return result

    @exclusive
    def apply_gradients(
        self,
        gradients: Mapping[str, npt.NDArray[np.float32]] | None = None,
        *,
        lr: Rates,
        momentum: float = 0.937,
        weight_decay: float = 5e-4,
        max_norm: float = math.inf,
        ema_decay: float | None = None,
    ) -> bool:
        """Update the weights from accumulated gradients, without a batch.

        The update is the one that `step` makes of the same sum, bit for bit: `step(update=False)`
        k times and then this equals k - 1 such steps and one that updates.

        Args:
            gradients: Sum of gradients by parameter, as from `gradients()`, for example added up
                over several sessions; None for those that this session has accumulated, which are
                otherwise replaced.
            lr: As for `step`.
            momentum: As for `step`.
            weight_decay: As for `step`.
            max_norm: As for `step`.
            ema_decay: As for `step`.

        Returns:
            True if the weights were updated and the sum is 0 again. False if the update was
            skipped, because the norm of the gradients is not finite; nothing has changed then.

        Raises:
            ConfigError: a rate is out of range, `ema_decay` is given and the artifacts keep no
                moving average, or the gradients are not those of the trained parameters.
            ArtifactError: the artifacts were exported by a version without `apply_step.onnx`.
        """
        hyper = checked_hyperparameters(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            max_norm=max_norm,
            ema_decay=self._ema_decay(ema_decay),
        )
        if gradients is not None:
            gradients = check_gradients(gradients, self.weights_layout().parameters.by_name)
        is_updated = self._apply(gradients, hyper)
        self._due += 1
        return is_updated

    @exclusive
    def evaluate(self, images: Images, targets: npt.ArrayLike, *, ema: bool = False) -> Evaluation:
        """Compute loss and predictions; errors as for `step`.

        Args:
            images: (B, 3, H, W) RGB images, as for `step`.
            targets: (n, 6) target rows, as for `step`.
            ema: Whether to use the moving average of the weights and statistics.
        """
        self._check_ema(ema)
        return self._evaluate(self._images(images), self._targets(targets), ema=ema)

    @exclusive
    def save(self, path: str | Path) -> None:
        """Write the whole state to one file, atomically.

        The file's metadata names the detector, its classes and anchors. An earlier file stays
        whole until the new one is complete.

        Args:
            path: Safetensors file to write.

        Raises:
            ArtifactError: the file cannot be written.
            TrainingError: weights or statistics are not finite.
        """
        state = self.state()
        try:
            check_values(state, "the session")
        except ArtifactError as error:
            raise TrainingError(
                f"{error}: nothing was written to {path}. Train with a lower learning rate or "
                "weight decay; the file saved before is unchanged"
            ) from error
        save_state(path, state, manifest=self.manifest)

    @exclusive
    def resume(self, path: str | Path) -> Self:
        """Continue from a saved state, bit for bit.

        Args:
            path: File that `save` wrote, from any kind of artifact.

        Returns:
            The session itself.

        Raises:
            ArtifactError: the file is missing, damaged, or from another model.
        """
        state = load_state(path)
        self._take(state, str(path))
        return self

    def start_from(self, path: str | Path) -> Self:
        """Begin a new training from the weights and statistics of an earlier one.

        Where that training kept a moving average, the average is taken, since it is what was
        evaluated. The optimizer starts afresh, with no updates done.

        Args:
            path: File that `save` wrote.

        Returns:
            The session itself.

        Raises:
            ArtifactError: the file is missing, damaged, or from another model.
            ConfigError: its classes or anchors differ, or the session has made updates already.
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
        """Number of optimizer steps done."""

    @property
    def skipped(self) -> int:
        """Number of optimizer steps skipped because their results would not have been finite."""
        return self._due - self.updates

    @abc.abstractmethod
    def state(self) -> TrainState:
        """Return a copy of the state."""

    @abc.abstractmethod
    def gradients(self) -> Mapping[str, npt.NDArray[np.float32]]:
        """Return a copy of the gradients accumulated since the last update, by parameter."""

    @exclusive
    def load_state(self, state: TrainState) -> None:
        """Take over a state of the same model; accumulated gradients are dropped.

        Raises:
            ArtifactError: the state is from another model, or holds values that are not finite;
                the session is unchanged.
        """
        self._take(state, "the state")

    def _take(self, state: TrainState, source: str) -> None:
        check_values(state, source)
        check_same_model(state, self._any_state(), source)
        self._load_state(state)

    def _any_state(self) -> TrainState:
        """Return a state of this model, whose values do not matter."""
        return self.state()

    @abc.abstractmethod
    def _load_state(self, state: TrainState) -> None: ...

    @abc.abstractmethod
    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out.

        `images` is (B, 3, H, W) float32 in [0, 1], `output0` (B, N, 5 + nc) as in `Evaluation`.

        Args:
            path: File to write; an existing file is replaced.
            ema: Whether to use the moving average of the weights and statistics.

        Raises:
            ArtifactError: the file cannot be written.
            ConfigError: `ema` is set and the artifacts keep no moving average.
        """

    @abc.abstractmethod
    def _step(
        self,
        images: Images,
        targets: npt.NDArray[np.float32],
        hyper: Hyperparameters | None,
    ) -> StepResult: ...

    @abc.abstractmethod
    def _apply(
        self, gradients: Mapping[str, npt.NDArray[np.float32]] | None, hyper: Hyperparameters
    ) -> bool: ...

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
                f"{self.folder} keeps no moving average of the weights; export it with ema=True, "
                "or use the weights themselves (ema=False)",
                argument="ema",
            )

    def _images(self, images: Images) -> Images:
        """Check images and return them as the graph takes them."""
        return scaled_images(images, self.manifest)

    @property
    def _terms(self) -> tuple[str, ...]:
        return self.manifest.loss_kind.terms

    def _loss_terms(self, items: npt.NDArray[np.float32]) -> LossTerms:
        """Return the terms that a graph put out as `items`."""
        return LossTerms(*items.tolist(), names=self._terms)

    def _no_boxes(self) -> npt.NDArray[np.float32]:
        """Return the predictions of a model that has no `decode`."""
        manifest = self.manifest
        return np.zeros((manifest.batch_size, 0, 5 + manifest.num_classes), np.float32)

    def _targets(self, targets: npt.ArrayLike) -> npt.NDArray[np.float32]:
        return pad_targets(
            targets,
            self.manifest.max_targets,
            batch_size=self.manifest.batch_size,
            num_classes=self.manifest.num_classes,
        )

"""What a session does with other devices: weights out and in, statistics measured anew."""

from __future__ import annotations

import abc
import dataclasses
import threading
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, TrainingError, listed
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.artifact.weights import Weights, WeightsLayout
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.step_results import Images, StepResult

__all__ = ["HasImages", "SharedWeights"]

Array = npt.NDArray[np.float32]

_NO_ROWS = np.zeros((0, 6), np.float32)


class HasImages(Protocol):
    """A batch; `exportloss.runtime.data.loader.Batch` is one. Targets are not needed."""

    @property
    def images(self) -> Images:
        """(B, 3, H, W) RGB images, as for `TrainSession.step`."""


class SharedWeights(abc.ABC):
    """The part of `TrainSession` that federated training uses."""

    _lock: threading.RLock
    manifest: Manifest
    _layout: WeightsLayout | None = None

    @abc.abstractmethod
    def state(self) -> TrainState:
        """Return a copy of the state."""

    @abc.abstractmethod
    def load_state(self, state: TrainState) -> None:
        """Take over a state of the same model; accumulated gradients are dropped."""

    @abc.abstractmethod
    def step(
        self, images: Images, targets: npt.ArrayLike, *, lr: float, update: bool = True
    ) -> StepResult:
        """Train on a batch."""

    def _add_gradients(self, gradients: Mapping[str, Array]) -> None:
        raise ConfigError(
            f"a session of {type(self).__name__} takes no gradients from elsewhere; open the "
            "artifacts with TrainSession.open"
        )

    @exclusive
    def weights_layout(self, *, share: str = "all") -> WeightsLayout:
        """Return the layout of `weights`; arguments and errors as there."""
        model = None
        if self._layout is None:
            model = self.state().model
            self._layout = WeightsLayout.of(self.manifest, model)
        if share == "all":
            return self._layout
        model = self.state().model if model is None else model
        return self._layout.shared(share, frozen=model.keys() - set(self.manifest.trained))

    @exclusive
    def weights(self, *, share: str = "all") -> Weights:
        """Copy the trained tensors, or some of them, into two flat vectors.

        Both kinds of artifact give the same vectors. The moving average is not in them.

        Args:
            share: `"all"` for parameters and statistics; `"parameters"` without statistics;
                `"without-norms"` for the parameters outside BatchNorm layers (FedBN, arXiv
                2102.07623); or a pattern of names, such as `"model.24.*"`.

        Raises:
            ConfigError: the pattern matches nothing, or a frozen tensor.
        """
        return Weights.of(self.weights_layout(share=share), self.state().model)

    @exclusive
    def set_weights(self, weights: Weights) -> None:
        """Take over weights from elsewhere; what they lack stays as it is.

        The optimizer starts afresh, with no updates done, and a moving average starts from the
        weights: what either remembered belongs to other weights.

        Args:
            weights: Weights that `weights` of any session of the same detector gave.

        Raises:
            ArtifactError: the weights are of another model, or hold values that are not finite; the
                session is unchanged.
        """
        if not isinstance(weights, Weights):
            raise ArtifactError(
                f"the weights are {type(weights).__name__}; expected what `weights` of a session "
                "gives"
            )
        weights.check()
        own = self.weights_layout()
        if unknown := sorted(set(weights.layout.names) - set(own.names)):
            raise ArtifactError(
                f"the weights are of another model: they have {listed(unknown, 1)}, which these "
                "artifacts lack or do not train; use artifacts of one export on every device"
            )
        expected = own.only(weights.layout.names)
        if weights.layout.digest != expected.digest:
            raise ArtifactError(
                f"the weights are of another model: their layout is {weights.layout.digest[:12]}, "
                f"expected {expected.digest[:12]}; names, shapes, classes and anchors must be the "
                "same on every device"
            )
        state = self.state()
        model = {**state.model, **weights.tensors}
        self.load_state(
            dataclasses.replace(
                state,
                model=model,
                optimizer={
                    kept: {name: np.zeros_like(tensor) for name, tensor in entries.items()}
                    for kept, entries in state.optimizer.items()
                },
                ema={name: model[name] for name in state.ema},
                updates=0,
                skipped=0,
            )
        )

    @exclusive
    def add_gradients(self, gradients: Mapping[str, Array]) -> None:
        """Add to the gradients that the next update uses, as steps without an update do.

        Args:
            gradients: Gradients by parameter, for any of the trainable parameters, float32.

        Raises:
            ArtifactError: a name is unknown, or a tensor has another shape or type or values that
                are not finite; nothing is added.
        """
        shapes = self.weights_layout().parameters.by_name
        given: Mapping[str, Any] = gradients
        for name, tensor in given.items():
            if name not in shapes:
                raise ArtifactError(f"gradients for {name!r}, which these artifacts do not train")
            expected = f"expected float32 of shape {shapes[name]}"
            if not isinstance(tensor, np.ndarray):
                kind = type(tensor).__name__
                raise ArtifactError(f"gradients for {name!r} are {kind}; {expected}")
            if tensor.dtype != np.float32 or tensor.shape != shapes[name]:
                raise ArtifactError(
                    f"gradients for {name!r} are {tensor.dtype} of shape {tensor.shape}; {expected}"
                )
            if not np.isfinite(tensor).all():
                raise ArtifactError(f"gradients for {name!r} have values that are not finite")
        self._add_gradients(gradients)

    @exclusive
    def calibrate(self, batches: Iterable[HasImages]) -> int:
        """Measure the BatchNorm statistics anew on images of this device; no labels are needed.

        Nothing of the old statistics is left: their fraction of the running mean, which after k
        batches is (1 - momentum)^k, is taken out. Parameters, optimizer and counters keep every
        bit; accumulated gradients are dropped. The moving average gets the same statistics.

        Args:
            batches: Batches of images, at least one; 20 or more are needed for good variances.

        Returns:
            Number of batches.

        Raises:
            ConfigError: the artifacts train no statistics, or there is no batch.
            TrainingError: a batch gives statistics that are not finite; the session is unchanged.
        """
        norms = self.manifest.statistics
        if not norms:
            raise ConfigError(
                "the artifacts train no BatchNorm statistics; export without freezing them"
            )
        before = self.state()
        names = [name for norm in norms for name in (norm.mean, norm.var)]
        empty = {name: np.zeros_like(before.model[name]) for name in names}
        count = 0
        try:
            self.load_state(dataclasses.replace(before, model={**before.model, **empty}))
            for batch in batches:
                if self.step(batch.images, _NO_ROWS, lr=0.0, update=False).skipped:
                    raise TrainingError(
                        f"batch {count + 1} of the calibration gives statistics that are not "
                        "finite; nothing was changed"
                    )
                count += 1
            measured = self.state().model
        finally:
            self.load_state(before)
        if not count:
            raise ConfigError("calibration needs at least one batch of images; got none")
        new: dict[str, Array] = {}
        for norm in norms:
            weight = 1 - (1 - norm.momentum) ** count
            for name in (norm.mean, norm.var):
                new[name] = (measured[name] / weight).astype(np.float32)
        average = {name: new.get(name, tensor) for name, tensor in before.ema.items()}
        self.load_state(dataclasses.replace(before, model={**before.model, **new}, ema=average))
        return count

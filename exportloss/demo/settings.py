"""Settings of the demonstration. Needs no torch."""

from __future__ import annotations

import dataclasses

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.runtime.training.hyp import TrainingConfig

__all__ = ["DemoSettings"]

_STRIDE = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What to train, and how; the defaults learn the shapes in a few minutes on two cores.

    Attributes:
        epochs: Number of epochs, >= 1.
        image_size: Side of the images in pixels, a multiple of 32.
        batch_size: Images per step, >= 1.
        train: Images of the training split, >= 1.
        val: Images of the validation split, >= 1.
        lr: Learning rate after warm-up, the highest, as `lr0` of `TrainingConfig`.
        seed: Seed of images, weights and order, >= 0.
        weights: File to start from, as `read_checkpoint` takes it; None for random weights.
        float64: Whether to train in eager torch in double precision, too: where it leaves float32,
            so does every engine.
        threads: Threads of ONNX Runtime, >= 1; None takes every core. Eager torch trains on one.

    Raises:
        ConfigError: A number is out of range.
    """

    epochs: int = 14
    image_size: int = 160
    batch_size: int = 4
    train: int = 256
    val: int = 32
    lr: float = 0.02
    seed: int = 0
    weights: str | None = None
    float64: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        at_least(
            1,
            **{"epochs": self.epochs, "image size": self.image_size, "batch size": self.batch_size},
            train=self.train,
            val=self.val,
            threads=1 if self.threads is None else self.threads,
        )
        at_least(0, seed=self.seed)
        if self.image_size % _STRIDE:
            raise ConfigError(f"image size is {self.image_size}; expected a multiple of {_STRIDE}")
        self.training_config()

    def training_config(self) -> TrainingConfig:
        """Return the hyperparameters of the training.

        Raises:
            ConfigError: The learning rate is out of range.
        """
        return TrainingConfig(lr0=self.lr, warmup_bias_lr=self.lr)

"""Augmentations, each with its hyperparameters, their ranges and what it draws.

To add one that changes a composed image: write its class here and append it to `TRANSFORMS` and to
the bases of `AllTransforms`; give YOLOv5's values of its keys in `training/hyp.py`, and their names
in `exportloss/hyp_keys.py`.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.errors import ConfigError
from exportloss.runtime.data.geometry import Matrix, random_matrix
from exportloss.runtime.data.labels import LabelArray

__all__ = [
    "COLOURS",
    "TRANSFORMS",
    "AllTransforms",
    "Colours",
    "Edit",
    "Flip",
    "FlipLeftRight",
    "FlipUpDown",
    "Gains",
    "MixUp",
    "Mosaic",
    "Strengths",
    "Warp",
]

_HUES = 255  # Pillow's hue of a full turn


class Edit(Protocol):
    """A change of one image: an augmentation whose random numbers are drawn."""

    def edit_image(self, image: Image.Image) -> Image.Image:
        """Return the changed image: RGB, of the same size."""

    def edit_labels(self, rows: LabelArray) -> LabelArray:
        """Return the changed labels: (n, 5) class, x, y, width, height as fractions."""


def _up_to(most: float) -> float:
    """Declare a hyperparameter in [0, `most`]; 0 does nothing."""
    strength: float = dataclasses.field(default=0.0, metadata={"most": most})
    return strength


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strengths:
    """Hyperparameters with ranges.

    Raises:
        ConfigError: a value is out of range.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            most, value = field.metadata["most"], getattr(self, field.name)
            if not 0 <= value <= most:
                raise ConfigError(f"{field.name} is {value}; expected a number in [0, {most:g}]")


class _Transform(Strengths, abc.ABC):
    @abc.abstractmethod
    def draw(self, rng: np.random.Generator) -> Edit | None:
        """Draw the change of an image; None for no change. Always draws as many numbers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colours(_Transform):
    """Random changes of hue, saturation and value.

    Attributes:
        hsv_h, hsv_s, hsv_v: Largest change of hue, saturation and value as a fraction, in [0, 1].
    """

    hsv_h: float = _up_to(1.0)
    hsv_s: float = _up_to(1.0)
    hsv_v: float = _up_to(1.0)

    def draw(self, rng: np.random.Generator) -> Edit | None:
        """Draw three gains."""
        changes = self.hsv_h, self.hsv_s, self.hsv_v
        hue, saturation, value = (1 + rng.uniform(-1, 1, 3) * changes).tolist()
        return Gains(hue, saturation, value) if any(changes) else None


@dataclasses.dataclass(frozen=True)
class Gains:
    """Factors of hue, saturation and value."""

    hue: float
    saturation: float
    value: float

    def edit_image(self, image: Image.Image) -> Image.Image:
        """Multiply the three bands."""
        levels: npt.NDArray[np.float64] = np.arange(256.0)
        bands = (
            levels * self.hue % _HUES,
            np.clip(levels * self.saturation, 0, 255),
            np.clip(levels * self.value, 0, 255),
        )
        tables: list[int] = np.concatenate(bands).astype(np.uint8).tolist()
        return image.convert("HSV").point(tables).convert("RGB")

    def edit_labels(self, rows: LabelArray) -> LabelArray:
        """Return the labels unchanged."""
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipUpDown(_Transform):
    """Random flip upside down.

    Attributes:
        flipud: Probability, in [0, 1].
    """

    flipud: float = _up_to(1.0)

    def draw(self, rng: np.random.Generator) -> Edit | None:
        """Draw whether to flip."""
        return Flip(Image.Transpose.FLIP_TOP_BOTTOM, 2) if rng.random() < self.flipud else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipLeftRight(_Transform):
    """Random flip left to right.

    Attributes:
        fliplr: Probability, in [0, 1].
    """

    fliplr: float = _up_to(1.0)

    def draw(self, rng: np.random.Generator) -> Edit | None:
        """Draw whether to flip."""
        return Flip(Image.Transpose.FLIP_LEFT_RIGHT, 1) if rng.random() < self.fliplr else None


@dataclasses.dataclass(frozen=True)
class Flip:
    """A flip along one axis.

    Attributes:
        method: Pillow's name of the flip.
        column: Column of the labels whose coordinate is mirrored.
    """

    method: Image.Transpose
    column: int

    def edit_image(self, image: Image.Image) -> Image.Image:
        """Flip the pixels."""
        return image.transpose(self.method)

    def edit_labels(self, rows: LabelArray) -> LabelArray:
        """Flip the centres."""
        rows = rows.copy()
        rows[:, self.column] = 1 - rows[:, self.column]
        return rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Warp(Strengths):
    """Random rotation, scaling, shear, translation and perspective.

    Attributes:
        degrees: Largest rotation either way, in [0, 180].
        translate: Largest translation along each axis as a fraction of the size, in [0, 1].
        scale: Largest change of size as a fraction, in [0, 0.95].
        shear: Largest shear along each axis, degrees, in [0, 80].
        perspective: Largest perspective along each axis, in [0, 0.001].
    """

    # Each range ends where YOLOv5's does, or where the result is no longer a transform.
    degrees: float = _up_to(180.0)
    translate: float = _up_to(1.0)
    scale: float = _up_to(0.95)
    shear: float = _up_to(80.0)
    perspective: float = _up_to(0.001)

    @property
    def moves(self) -> bool:
        """True if images are rotated, scaled, sheared, translated or seen in perspective."""
        return any((self.degrees, self.translate, self.scale, self.shear, self.perspective))

    def draw_matrix(
        self, rng: np.random.Generator, source: tuple[int, int], size: tuple[int, int]
    ) -> tuple[Matrix, float]:
        """Draw the transform from one (height, width) to another; see `random_matrix`."""
        return random_matrix(
            rng,
            source,
            size,
            degrees=self.degrees,
            translate=self.translate,
            scale=self.scale,
            shear=self.shear,
            perspective=self.perspective,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic(Strengths):
    """Random mosaic: an image and three others around a point.

    Attributes:
        mosaic: Probability, in [0, 1].
    """

    mosaic: float = _up_to(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixUp(Strengths):
    """Random blend of a mosaic with another one.

    Attributes:
        mixup: Probability for a mosaic, in [0, 1].
    """

    mixup: float = _up_to(1.0)


# In the order in which they are drawn and applied; the fraction of a blend is drawn between the two
# lists. Another order would change the images of a seed.
COLOURS: tuple[type[_Transform], ...] = (Colours,)
TRANSFORMS: tuple[type[_Transform], ...] = (FlipUpDown, FlipLeftRight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllTransforms(MixUp, Mosaic, FlipLeftRight, FlipUpDown, Warp, Colours):
    """The hyperparameters of all augmentations, each off by default."""

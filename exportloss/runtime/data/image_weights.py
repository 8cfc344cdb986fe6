"""Weighted draw of an epoch's images: rare and badly detected classes come more often."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError
from exportloss.runtime.data.labels import LabelArray

__all__ = ["ImageWeights"]

Weights = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ImageWeights:
    """A weighted draw of images, like YOLOv5's image weights.

    The weight of a class is the inverse of its number of objects, normalized to a mean of 1. For a
    draw it is multiplied by (1 - mAP50-95 of the class)^2 / nc; the weight of an image is the sum
    over its objects. An image without objects is never drawn. If all weights are 0, because every
    class is detected perfectly, all images are equally likely.

    Attributes:
        images: Number of images, >= 1.
        classes: (nc,) weight of each class.
        image_of: (objects,) image index of each object.
        class_of: (objects,) class index of each object.
    """

    images: int
    classes: Weights
    image_of: Indices
    class_of: Indices

    @classmethod
    def of(cls, labels: Sequence[LabelArray], num_classes: int) -> ImageWeights:
        """Count the objects of a data set.

        Args:
            labels: One (n, 5) array per image, class first.
            num_classes: Number of classes, >= 1.
        """
        class_of = np.concatenate([*(rows[:, 0] for rows in labels), np.zeros(0)]).astype(np.int64)
        counts = np.bincount(class_of, minlength=num_classes)
        inverse = 1 / np.maximum(counts, 1)  # a class without objects is in no image
        return cls(
            images=len(labels),
            classes=inverse * num_classes / inverse.sum(),
            image_of=np.repeat(np.arange(len(labels)), [len(rows) for rows in labels]),
            class_of=class_of,
        )

    def weigh(self, class_map: Sequence[float] | None) -> Weights:
        """Return the (images,) weights, >= 0.

        Args:
            class_map: (nc,) mAP50-95 of each class in [0, 1]; None for 0 each, as before the first
                validation.

        Raises:
            ConfigError: `class_map` has another length.
        """
        num_classes = len(self.classes)
        achieved = np.zeros(num_classes) if class_map is None else np.asarray(class_map, np.float64)
        if achieved.shape != (num_classes,):
            raise ConfigError(
                f"class_map has shape {achieved.shape}; expected one mAP for each of the "
                f"{num_classes} classes"
            )
        weights = self.classes * (1 - achieved) ** 2 / num_classes
        of_objects = weights[self.class_of]
        sums = np.bincount(self.image_of, weights=of_objects, minlength=self.images)
        return sums.astype(np.float64)

    def draw(self, class_map: Sequence[float] | None, rng: np.random.Generator) -> Indices:
        """Draw as many images as there are, with replacement.

        Args:
            class_map: As for `weigh`.
            rng: Source of all random numbers.

        Returns:
            (images,) indices.
        """
        # A running sum is added in order on every machine, so equal seeds draw equal images.
        sums = np.cumsum(self.weigh(class_map))
        if not sums[-1] > 0:
            return rng.integers(self.images, size=self.images)
        drawn = np.searchsorted(sums, rng.random(self.images) * sums[-1], side="right")
        # A product that rounds up to the whole sum belongs to the last image with a weight.
        chosen: Indices = np.minimum(drawn, np.searchsorted(sums, sums[-1]))
        return chosen

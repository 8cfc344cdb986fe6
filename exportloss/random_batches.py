"""Random batches for verification and benchmarks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["draw_images", "draw_targets"]


def draw_images(
    rng: np.random.Generator, batch_size: int, image_size: tuple[int, int]
) -> npt.NDArray[np.uint8]:
    """Draw noise images, (B, 3, H, W), in [0, 255]."""
    return rng.integers(0, 256, (batch_size, 3, *image_size), dtype=np.uint8)


def draw_targets(
    rng: np.random.Generator, count: int, *, batch_size: int, num_classes: int
) -> npt.NDArray[np.float32]:
    """Draw boxes of all sizes, some of which reach past the image's border.

    Returns:
        (count, 6) rows of image, class, x, y, width, height, sorted by image; the last four as
        fractions of the image.
    """
    rows = np.empty((count, 6), np.float32)
    rows[:, 0] = np.sort(rng.integers(0, batch_size, count))
    rows[:, 1] = rng.integers(0, num_classes, count)
    rows[:, 2:4] = rng.uniform(0, 1, (count, 2))
    rows[:, 4:] = rng.uniform(0.02, 0.6, (count, 2))
    return rows

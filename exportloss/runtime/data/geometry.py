"""Rotation, scaling, shear and translation of images and boxes.

Coordinates are continuous: the first pixel covers 0 to 1.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.runtime.data.labels import LabelArray

__all__ = [
    "Corners",
    "Matrix",
    "clip_boxes",
    "corners_from_fractions",
    "fractions_from_corners",
    "is_worth_keeping",
    "move_boxes",
    "random_matrix",
    "warp",
]

Corners = npt.NDArray[np.float64]  # (n, 4) x1, y1, x2, y2, pixels
Matrix = npt.NDArray[np.float64]  # (3, 3), on homogeneous coordinates x, y, 1

_LEAST_SIDE = 2.0  # pixels
_LEAST_AREA = 0.1  # fraction of the area before
_MOST_ASPECT = 100.0
_LEAST_DEPTH = 1e-3  # closer to the eye, perspective has no meaning


def random_matrix(
    rng: np.random.Generator,
    source: tuple[int, int],
    size: tuple[int, int],
    *,
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    perspective: float,
) -> tuple[Matrix, float]:
    """Draw a transform from an image to a canvas, as YOLOv5 composes it.

    Perspective, rotation with scaling, and shear are about the image's centre, which then moves to
    the canvas's centre plus the translation.

    Args:
        rng: Source of the eight random numbers, all uniform.
        source: (height, width) of the image, pixels.
        size: (height, width) of the canvas, pixels.
        degrees: Largest rotation either way.
        translate: Largest translation along each axis, as a fraction of the canvas.
        scale: Half-width of the factor's range, [1 - scale, 1 + scale].
        shear: Largest angle along each axis, degrees.
        perspective: Largest coefficient along each axis, per pixel.

    Returns:
        The matrix, and its scale factor.
    """
    to_origin, bend, turn, slant, to_canvas = (np.eye(3) for _ in range(5))
    to_origin[:2, 2] = -source[1] / 2, -source[0] / 2
    bend[2, :2] = rng.uniform(-perspective, perspective, 2)
    angle = math.radians(rng.uniform(-degrees, degrees))
    factor = rng.uniform(1 - scale, 1 + scale)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    turn[:2, :2] = [[cos, sin], [-sin, cos]]
    slant[[0, 1], [1, 0]] = np.tan(np.radians(rng.uniform(-shear, shear, 2)))
    to_canvas[:2, 2] = rng.uniform(0.5 - translate, 0.5 + translate, 2) * size[::-1]
    return to_canvas @ slant @ turn @ bend @ to_origin, factor


def warp(image: Image.Image, matrix: Matrix, size: tuple[int, int], color: int) -> Image.Image:
    """Draw a transformed image on a canvas.

    Args:
        image: RGB image.
        matrix: Transform from its pixels to those of the canvas.
        size: (height, width) of the canvas, pixels.
        color: Grey value outside the image, in [0, 255].
    """
    back = np.linalg.inv(matrix)
    back /= back[2, 2]
    coefficients = back.ravel().tolist()
    is_affine = coefficients[6] == coefficients[7] == 0
    return image.transform(
        size[::-1],
        Image.Transform.AFFINE if is_affine else Image.Transform.PERSPECTIVE,
        coefficients[: 6 if is_affine else 8],
        Image.Resampling.BILINEAR,
        fillcolor=(color,) * 3,
    )


def move_boxes(boxes: Corners, matrix: Matrix) -> Corners:
    """Return the upright boxes around the transformed corners of boxes.

    A box that reaches behind the eye of the perspective gets no area.
    """
    corners = np.ones((len(boxes), 4, 3))
    corners[:, :, :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    moved = corners @ matrix.T
    depth = moved[:, :, 2:]
    points = moved[:, :, :2] / np.maximum(depth, _LEAST_DEPTH)
    hull = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
    hull[(depth < _LEAST_DEPTH).any(axis=(1, 2))] = 0
    return hull


def clip_boxes(boxes: Corners, size: tuple[int, int]) -> Corners:
    """Clip boxes to a canvas of (height, width) pixels."""
    return np.clip(boxes, 0, [*size[::-1], *size[::-1]])


def is_worth_keeping(before: Corners, after: Corners) -> npt.NDArray[np.bool_]:
    """Return which boxes can still be learnt from, by YOLOv5's bounds.

    Both sides exceed 2 pixels, more than a tenth of the area is left, and the longer side is less
    than a hundred times the shorter.

    Args:
        before: (n, 4) boxes before the transform, multiplied by its scale factor.
        after: (n, 4) boxes transformed and clipped.
    """
    (width, height), area = (after[:, 2:] - after[:, :2]).T, _area(before)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept: npt.NDArray[np.bool_] = (
            (width > _LEAST_SIDE)
            & (height > _LEAST_SIDE)
            & (width * height > _LEAST_AREA * area)
            & (np.maximum(width / height, height / width) < _MOST_ASPECT)
        )
    return kept


def corners_from_fractions(
    labels: LabelArray, scaled: tuple[int, int], left: float, top: float
) -> Corners:
    """Return the boxes of an image placed on a canvas, in canvas pixels.

    Args:
        labels: (n, 5) class, x, y, width, height, as fractions of the image.
        scaled: (height, width) of the image, canvas pixels.
        left: Left edge of the image, canvas pixels.
        top: Top edge of the image, canvas pixels.
    """
    scale = np.array(scaled[::-1], np.float64)
    centre, half = labels[:, 1:3] * scale + (left, top), labels[:, 3:5] * scale / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def fractions_from_corners(
    classes: npt.NDArray[np.float32], boxes: Corners, size: tuple[int, int]
) -> LabelArray:
    """Return (n, 5) labels from (n,) classes and boxes on a canvas of (height, width) pixels."""
    canvas = np.array(size[::-1], np.float64)
    centre, sides = (
        (boxes[:, :2] + boxes[:, 2:]) / 2 / canvas,
        (boxes[:, 2:] - boxes[:, :2]) / canvas,
    )
    return np.concatenate([classes[:, None], centre, sides], axis=1).astype(np.float32)


def _area(boxes: Corners) -> npt.NDArray[np.float64]:
    area: npt.NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return area

"""How well anchors fit the boxes of a data set, and better ones where they do not.

YOLOv5 trains a box on the anchors whose sides all differ from its own by a factor below `anchor_t`.
The fraction of boxes with such an anchor is the best possible recall: a box that fits none is never
learnt. Better anchors are the means of clusters of boxes (k-means), refined by random changes of
which the fitter survive (a genetic algorithm), as YOLOv5's documentation describes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError, DataError, excerpt
from exportloss.reading import read_yaml_mapping
from exportloss.runtime.data.loader import Batches

__all__ = [
    "LEAST_RECALL",
    "AnchorFit",
    "Anchors",
    "as_anchors",
    "best_possible_recall",
    "box_sides",
    "fit_anchors",
    "improve_anchors",
    "read_anchors",
]

Anchors = tuple[tuple[tuple[float, float], ...], ...]  # (nl, na, 2) width, height, pixels
_Sides = npt.NDArray[np.float64]  # (n, 2) width, height, pixels

LEAST_RECALL = 0.98  # YOLOv5 looks for better anchors at or below it

_LEAST_SIDE = 2.0  # pixels; boxes smaller on both sides do not survive augmentation
_MOST_BOXES = 10_000  # that anchors are fitted to; more only take longer
_ROUNDS = 30  # of k-means
_GENERATIONS = 1000
_CHANGED = 0.9  # probability that a side changes in a generation
_SPREAD = 0.1  # standard deviation of its factor
_FACTORS = 0.3, 3.0  # least and greatest factor
_SHORTEST = 2.0  # pixels; shortest side of an anchor


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnchorFit:
    """Result of `improve_anchors`.

    Attributes:
        anchors: (nl, na, 2) width and height in pixels, small to large.
        before: Best possible recall of the given anchors, in [0, 1].
        after: Best possible recall of `anchors`, in [0, 1].
    """

    anchors: Anchors
    before: float
    after: float


def box_sides(batches: Batches) -> _Sides:
    """Return the (n, 2) width and height of every box of a data set, in pixels of the canvas."""
    scaled = [batches.place(index).scaled for index in range(len(batches.dataset))]
    sides = [
        rows[:, 3:5].astype(np.float64) * (width, height)
        for rows, (height, width) in zip(batches.labels, scaled, strict=True)
    ]
    return np.concatenate(sides)


def best_possible_recall(
    sides: _Sides, anchors: Anchors | npt.NDArray[np.float64], anchor_t: float
) -> float:
    """Return the fraction of boxes that fit at least one anchor, in [0, 1]; NaN without boxes.

    Args:
        sides: (n, 2) width and height, pixels.
        anchors: (..., 2) width and height of the anchors of all levels, pixels.
        anchor_t: As in `LossConfig`.
    """
    if len(sides) == 0:
        return float("nan")
    return float((_likeness(sides, _flat(anchors)).max(axis=1) > 1 / anchor_t).mean())


def fit_anchors(
    sides: _Sides, shape: tuple[int, int], *, anchor_t: float = 4.0, seed: int = 0
) -> Anchors:
    """Fit anchors to boxes.

    Args:
        sides: (n, 2) width and height, pixels.
        shape: (nl, na) levels, and anchors per level.
        anchor_t: As in `LossConfig`.
        seed: Seed of all random numbers, >= 0.

    Returns:
        (nl, na, 2) width and height in pixels, small to large.

    Raises:
        DataError: fewer boxes of at least 2 pixels than anchors.
    """
    usable = sides[(sides >= _LEAST_SIDE).any(axis=1)]
    count = shape[0] * shape[1]
    if len(usable) < count:
        raise DataError(
            f"{len(usable)} boxes of 2 pixels or more are too few to fit {count} anchors to; keep "
            "the anchors that the model has, or pass anchors of your own"
        )
    rng = np.random.default_rng(seed)
    usable = usable[rng.permutation(len(usable))[:_MOST_BOXES]]
    anchors = _evolve(_cluster(usable, count, rng), usable, anchor_t, rng)
    anchors = anchors[np.argsort(anchors.prod(axis=1), kind="stable")]
    return as_anchors(anchors.round(2).reshape(*shape, 2))


def improve_anchors(
    batches: Batches, anchors: Anchors, *, anchor_t: float = 4.0, seed: int = 0
) -> AnchorFit:
    """Find better anchors for a data set if the given ones fit too few of its boxes.

    The given anchors are kept if their best possible recall is above 0.98, or if the new ones have
    no higher recall.

    Args:
        batches: Batches of the training split.
        anchors: (nl, na, 2) width and height, pixels.
        anchor_t: As in `LossConfig`.
        seed: Seed of all random numbers, >= 0.

    Raises:
        DataError: there are too few boxes to fit anchors to.
    """
    sides = box_sides(batches)
    before = best_possible_recall(sides, anchors, anchor_t)
    if before > LEAST_RECALL:
        return AnchorFit(anchors=anchors, before=before, after=before)
    found = fit_anchors(sides, (len(anchors), len(anchors[0])), anchor_t=anchor_t, seed=seed)
    after = best_possible_recall(sides, found, anchor_t)
    if after <= before:
        return AnchorFit(anchors=anchors, before=before, after=before)
    return AnchorFit(anchors=found, before=before, after=after)


def as_anchors(values: npt.NDArray[np.float64] | Sequence[Sequence[Sequence[float]]]) -> Anchors:
    """Check (nl, na, 2) numbers, such as those of a file, and return them as anchors.

    Raises:
        ConfigError: the shape is another one, or a side is not a number above 0.
    """
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"anchors are no (levels, anchors, 2) numbers: {error}") from error
    if array.ndim != 3 or array.shape[2] != 2 or array.size == 0:
        raise ConfigError(f"anchors have shape {array.shape}; expected (levels, anchors, 2)")
    if not (np.isfinite(array) & (array > 0)).all():
        bad = array[~(np.isfinite(array) & (array > 0))][0]
        raise ConfigError(f"an anchor has a side of {bad:g}; expected a number above 0")
    return tuple(tuple((w, h) for w, h in level) for level in array.tolist())


def read_anchors(path: str | Path) -> Anchors:
    """Read anchors from a YOLOv5 model file: `anchors:` with one row per level.

    A row is `[w, h, w, h, ...]` or `[[w, h], [w, h], ...]`, in pixels, finest level first.

    Raises:
        ConfigError: the file cannot be read, or has no such rows.
    """
    read = read_yaml_mapping(Path(path), expected="`anchors:` and rows of them", error=ConfigError)
    rows = read.values.get("anchors")
    if not isinstance(rows, list) or not all(isinstance(row, list) and row for row in rows):
        raise ConfigError(
            f"{read.where('anchors')}: `anchors` is {excerpt(repr(rows))}; expected a list with a "
            "row of widths and heights per level"
        )
    try:
        return as_anchors([np.reshape(row, (-1, 2)).tolist() for row in rows])
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(f"{read.where('anchors')}: {error}") from error


def _flat(anchors: Anchors | npt.NDArray[np.float64]) -> _Sides:
    return np.asarray(anchors, np.float64).reshape(-1, 2)


def _likeness(sides: _Sides, anchors: _Sides) -> npt.NDArray[np.float64]:
    """Return (boxes, anchors) in (0, 1]: the worse side's ratio of shorter to longer."""
    ratio = sides[:, None] / anchors[None]
    likeness: npt.NDArray[np.float64] = np.minimum(ratio, 1 / np.maximum(ratio, 1e-12)).min(axis=2)
    return likeness


def _fitness(anchors: _Sides, sides: _Sides, anchor_t: float) -> float:
    """Return the mean likeness of the best anchor over all boxes; boxes that fit none count 0."""
    best = _likeness(sides, anchors).max(axis=1)
    return float((best * (best > 1 / anchor_t)).mean())


def _cluster(sides: _Sides, count: int, rng: np.random.Generator) -> _Sides:
    """Return the means of clusters of boxes; distances are in standard deviations of the sides."""
    unit = sides.std(axis=0)
    unit[unit == 0] = 1
    points = sides / unit
    means = points[rng.choice(len(points), 1)]
    while len(means) < count:  # k-means++: the farther from the present means, the likelier
        distance = ((points[:, None] - means[None]) ** 2).sum(axis=2).min(axis=1)
        total = distance.sum()
        chances = None if total == 0 else distance / total
        means = np.concatenate([means, points[rng.choice(len(points), 1, p=chances)]])
    for _ in range(_ROUNDS):
        nearest = ((points[:, None] - means[None]) ** 2).sum(axis=2).argmin(axis=1)
        for index in range(count):
            if (mine := nearest == index).any():
                means[index] = points[mine].mean(axis=0)
    centres: _Sides = means * unit
    return centres


def _evolve(anchors: _Sides, sides: _Sides, anchor_t: float, rng: np.random.Generator) -> _Sides:
    best = _fitness(anchors, sides, anchor_t)
    for _ in range(_GENERATIONS):
        chosen = rng.random(anchors.shape) < _CHANGED
        factors = 1 + chosen * rng.random() * rng.normal(0, _SPREAD, anchors.shape)
        changed = np.maximum(anchors * np.clip(factors, *_FACTORS), _SHORTEST)
        if (fitness := _fitness(changed, sides, anchor_t)) > best:
            anchors, best = changed, fitness
    return anchors

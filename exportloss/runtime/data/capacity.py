"""Check that the boxes of every batch fit into a graph's target rows; drop boxes where allowed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError, TooManyTargetsError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.targets import pad_targets

__all__ = ["Overflow", "check_batches", "check_capacity", "drops_boxes", "fit_targets"]

Overflow = Literal["auto", "raise", "keep-largest"]


def check_batches(batches: Batches, manifest: Manifest, overflow: Overflow = "auto") -> None:
    """Check before training that batches suit the artifacts.

    Raises:
        ConfigError: the batches have another shape, or other classes.
        TooManyTargetsError: as for `check_capacity`.
    """
    expected = manifest.batch_size, manifest.image_size
    if (batches.batch_size, batches.size) != expected:
        raise ConfigError(
            f"batches of {batches.batch_size} images of {batches.size} pixels; the artifacts "
            f"take {expected[0]} of {expected[1]}"
        )
    _check_names(batches.dataset.names, manifest)
    check_capacity(batches, manifest.max_targets, overflow)


def check_capacity(batches: Batches, max_targets: int, overflow: Overflow = "auto") -> None:
    """Check before training that the boxes of every batch will fit into the graph.

    Args:
        batches: Batches to train or validate on.
        max_targets: Target rows of the graph, >= 1.
        overflow: Policy for batches with more boxes; `"auto"` drops boxes of mosaics only.

    Raises:
        TooManyTargetsError: the fullest possible batch has too many boxes, and `overflow` is
            `"raise"`, or `"auto"` without mosaics.
    """
    if drops_boxes(batches, overflow):
        return
    counts = sorted((len(rows) for rows in batches.labels), reverse=True)
    if batches.image_weights is not None:  # all images of a batch can be the same one
        counts = counts[:1]
    # A data set smaller than a batch is repeated; the others of a mosaic can be any images.
    others = batches.most_images - 1
    fullest = sum(int(count) for count in np.resize(counts, batches.batch_size))
    fullest += batches.batch_size * others * counts[0]
    if fullest > max_targets:
        mosaics = f" in mosaics of {others + 1}" if others else ""
        raise TooManyTargetsError(
            f"the {batches.batch_size} images with the most boxes, if they come in one "
            f"batch{mosaics}, have {fullest} targets, but max_targets is {max_targets}; "
            f'export with max_targets={fullest}, or pass overflow="keep-largest" to drop the '
            "smallest boxes",
            argument="overflow",
        )


def drops_boxes(batches: Batches, overflow: Overflow) -> bool:
    """Return whether boxes that do not fit are dropped and counted instead of refused."""
    return overflow == "keep-largest" or (overflow == "auto" and batches.most_images > 1)


def _check_names(names: tuple[str, ...], manifest: Manifest) -> None:
    if len(names) != manifest.num_classes:
        raise ConfigError(
            f"the data set has {len(names)} classes, the artifacts {manifest.num_classes}; export "
            "again for this data set"
        )
    unnamed = tuple(map(str, range(len(names))))
    if manifest.names not in (names, unnamed):
        index = next(i for i, name in enumerate(names) if name != manifest.names[i])
        raise ConfigError(
            f"class {index} is {names[index]!r} in the data set and {manifest.names[index]!r} in "
            "the artifacts; put the names in the same order, or export again for this data set"
        )


def fit_targets(
    batch: Batch, manifest: Manifest, overflow: Overflow
) -> tuple[npt.NDArray[np.float32], int]:
    """Return the target rows of a batch that fit, and the number of rows dropped."""
    if overflow == "raise":
        return batch.targets, 0
    return pad_targets(
        batch.targets,
        manifest.max_targets,
        batch_size=manifest.batch_size,
        num_classes=manifest.num_classes,
        overflow="keep_largest",
    )

"""Whether the boxes of a data set's batches fit the slots of a graph, and what is done if not."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError, TooManyTargetsError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.targets import pad_targets

__all__ = ["Overflow", "check_batches", "check_room", "drops_boxes", "fit_targets"]

Overflow = Literal["auto", "raise", "keep-largest"]


def check_batches(batches: Batches, manifest: Manifest, overflow: Overflow = "auto") -> None:
    """See before training whether batches suit the artifacts.

    Raises:
        ConfigError: they have another shape, or other classes.
        TooManyTargetsError: as for `check_room`.
    """
    expected = manifest.batch_size, manifest.image_size
    if (batches.batch_size, batches.size) != expected:
        raise ConfigError(
            f"batches of {batches.batch_size} images of {batches.size} pixels; the artifacts "
            f"take {expected[0]} of {expected[1]}"
        )
    _check_names(batches.dataset.names, manifest)
    check_room(batches, manifest.max_targets, overflow)


def check_room(batches: Batches, max_targets: int, overflow: Overflow = "auto") -> None:
    """See before training whether the boxes of every batch will fit the graph.

    Raises:
        TooManyTargetsError: the fullest batch that chance could bring has too many, and
            `overflow` is `"raise"`, or `"auto"` and the batches are no mosaics.
    """
    if drops_boxes(batches, overflow):
        return
    counts = sorted((len(rows) for rows in batches.labels), reverse=True)
    if batches.image_weights is not None:  # every image of a batch can be the same one
        counts = counts[:1]
    # Fewer images than a batch has are repeated; the others of a mosaic can be any.
    others = batches.most_images - 1
    fullest = sum(int(count) for count in np.resize(counts, batches.batch_size))
    fullest += batches.batch_size * others * counts[0]
    if fullest > max_targets:
        mosaics = f" in mosaics of {others + 1}" if others else ""
        raise TooManyTargetsError(
            f"the {batches.batch_size} images with the most boxes, if they come in one "
            f"batch{mosaics}, have {fullest} targets, the graph has {max_targets} slots; export "
            f"with --max-targets {fullest}, or say --overflow keep-largest to drop the smallest "
            "boxes"
        )


def drops_boxes(batches: Batches, overflow: Overflow) -> bool:
    """Say whether boxes that do not fit are dropped and counted, not refused."""
    return overflow == "keep-largest" or (overflow == "auto" and batches.most_images > 1)


def _check_names(names: tuple[str, ...], manifest: Manifest) -> None:
    if len(names) != manifest.num_classes:
        raise ConfigError(
            f"the data set has {len(names)} classes, the artifacts {manifest.num_classes}; export "
            "again for this data set (--data)"
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
    """Return a batch's target rows, those that fit, and how many were left out."""
    if overflow == "raise":
        return batch.targets, 0
    return pad_targets(
        batch.targets,
        manifest.max_targets,
        batch_size=manifest.batch_size,
        num_classes=manifest.num_classes,
        overflow="keep_largest",
    )

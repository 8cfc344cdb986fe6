"""Reports on a data set, which every command that reads one prints first."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from exportloss.cli.terminal import say
from exportloss.errors import excerpt, listed
from exportloss.runtime.data.anchors import LEAST_RECALL
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.data.summary import SplitSummary, summarize
from exportloss.runtime.data.walking import describe_skipped
from exportloss.runtime.drawing.fonts import drawable_names

__all__ = ["print_recall", "print_skipped", "print_split", "print_undrawable"]

_LISTED = 5  # label files


def print_split(split: str, batches: Batches) -> SplitSummary:
    """Print a line for a split, and warnings of what may be a mistake in it.

    Args:
        split: Name of the split.
        batches: Batches of the split.

    Returns:
        The summary that was printed.
    """
    summary = summarize(batches)
    say(f"{split}: {summary}")
    print_skipped(batches.dataset.irregular)
    if summary.orphans:
        say(
            f"warning: {len(summary.orphans)} label files belong to no image and are not read: "
            f"{listed(summary.orphans, _LISTED)}; a label file is named as its image, and ends in "
            ".txt"
        )
    if summary.crowds or summary.no_area:
        say(
            f"note: {summary.crowds} boxes of crowds (iscrowd) and {summary.no_area} boxes without "
            "an area are skipped"
        )
    if summary.strays:
        say(
            f"warning: {summary.strays} annotations belong to no image and are not read; their "
            "`image_id` is that of no entry of `images`"
        )
    if batches.unended:
        say(
            f"note: {batches.unended} JPEG files lack their end marker; they are complete without "
            "it, and are read as they are"
        )
    if not summary.objects:
        say(f"warning: no object in {split}: a detector cannot be judged")
    return summary


def print_skipped(skipped: Sequence[Path]) -> None:
    """Warn of entries of a folder of images that are no files; print nothing where there are none.

    Args:
        skipped: Broken links, pipes, sockets, devices, and folders that cannot be read.
    """
    if skipped:
        say(f"warning: {describe_skipped(skipped)}")


@functools.cache
def print_undrawable(names: tuple[str, ...]) -> None:
    """Print a note, once, if no installed font has the letters of a class name."""
    for name, drawn in zip(names, drawable_names(names), strict=True):
        if name != drawn:
            say(
                f"note: no installed font has the letters of {excerpt(repr(name))}; images show "
                "the numbers of such classes"
            )
            return


def print_recall(recall: float, *, can_change: bool) -> None:
    """Print the best possible recall of anchors, with a warning where it is low.

    Args:
        recall: Best possible recall, in [0, 1].
        can_change: Whether options of this command can change the anchors.
    """
    say(f"best possible recall of the anchors: {recall:.4f}")
    if recall < LEAST_RECALL:
        remedy = (
            "leave --noautoanchor out, or give better ones with --anchors"
            if can_change
            else "export again with --data for these images, which finds better ones"
        )
        say(
            f"warning: {1 - recall:.1%} of the boxes fit no anchor at this image size and are "
            f"never learnt; {remedy}"
        )

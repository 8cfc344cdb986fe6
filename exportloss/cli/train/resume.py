"""`exportloss train --resume`: finding the run, and checking that it can continue."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

from exportloss.cli.defaults import default_of
from exportloss.cli.terminal import say
from exportloss.cli.train.options import CHANGED_ON_RESUME, TrainOptions
from exportloss.errors import ConfigError
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.history import latest_run
from exportloss.runtime.training.origin import data_digest, read_origin
from exportloss.runtime.training.run_folder import RunFolder, read_yaml, write_yaml
from exportloss.runtime.training.trainer import RunCompleteError

__all__ = ["check_resumed", "run_to_resume", "updated_options"]


def run_to_resume(options: argparse.Namespace) -> RunFolder | None:
    """Return the run that `--resume` names, or the last one of the project; None without it.

    Raises:
        ArtifactError: The project has no run.
    """
    if options.resume is None:
        return None
    if options.resume:
        return RunFolder(Path(options.resume))
    return latest_run(options.project or default_of(TrainOptions, "project"))


def check_resumed(run: RunFolder, options: TrainOptions, batches: Batches) -> Path | None:
    """Check that a run continues with the images that it was started with.

    Args:
        run: Run to resume.
        options: Options of the run.
        batches: Batches of the training split.

    Returns:
        The initial weights of a run that began with those of another and was interrupted in its
        first epoch; otherwise None: the run continues from its own state.

    Raises:
        ConfigError: The data differ, or the file of initial weights was replaced.
        ArtifactError: The initial weights are gone.
    """
    images = len(batches.dataset)
    if (seen := len(batches) * batches.batch_size) < images:
        say(
            f"note: the run was started by an earlier version, whose epochs are of {seen} of the "
            f"{images} training images; it goes on that way. A new run sees all of them in every "
            "epoch"
        )
    origin = read_origin(run.origin)
    if origin is None:
        return None
    if origin.data != data_digest(batches):
        recorded = read_yaml(run.options).get("data")
        what = f"{options.data} has other images, sizes or labels than the run was started with"
        if options.data != recorded:
            raise ConfigError(
                f"{what}; for new data start another run from this one: --weights {run.path}"
            )
        say(f"warning: {what}: what comes of it is not what an uninterrupted run would be")
    return None if run.last.exists() else origin.check_weights()


@contextlib.contextmanager
def updated_options(run: RunFolder, options: TrainOptions) -> Iterator[None]:
    """Record the changed options of a resumed run, so that it can be resumed again.

    If the block finds the run complete, the options are left as they were.

    Raises:
        ArtifactError: The options are damaged, or cannot be written.
    """
    recorded = read_yaml(run.options)
    changed = {name: getattr(options, name) for name in CHANGED_ON_RESUME}
    changed["weights"] = str(Path(options.weights).resolve())  # artifacts that were moved
    is_changed = recorded != {**recorded, **changed}
    if is_changed:
        write_yaml(run.options, {**recorded, **changed})
    try:
        yield
    except RunCompleteError:
        if is_changed:
            write_yaml(run.options, recorded)
        raise

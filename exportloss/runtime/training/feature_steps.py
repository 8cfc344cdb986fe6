"""Training on the features of images that do not change, which are computed once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.capacity import Overflow, fit_targets
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.steps import DoneStep, settings_of
from exportloss.system import MOST_OF_MEMORY, available_bytes

__all__ = ["FeatureSteps"]

Array = npt.NDArray[np.float32]

_MEGABYTE = 1_000_000


class FeatureSteps:
    """The steps of an epoch, as `run_steps`, with what frozen layers compute kept in memory.

    An image is decoded, and passes through the frozen layers, once; the results are, bit for bit,
    those of `run_steps`. Another session or other batches begin anew.

    Args:
        tell: Function called before the first step with the memory that the features take.
    """

    def __init__(self, tell: Callable[[str], object] | None = None) -> None:
        self._tell = tell
        self._kept: dict[str, Array] = {}
        self._known = np.zeros(0, bool)
        self._of: tuple[TrainSession, Batches] | None = None  # whose features are kept

    def __call__(
        self,
        session: TrainSession,
        batches: Batches,
        schedule: Schedule,
        epoch: int,
        *,
        overflow: Overflow,
        class_map: Sequence[float] | None,
    ) -> Generator[DoneStep, None, None]:
        """Do the steps of an epoch; arguments as for `run_steps`.

        Raises:
            ConfigError: the batches are augmented, the session has no features, or those of all
                images do not fit into memory.
            DataError: an image cannot be decoded.
        """
        if batches.augment not in (None, Augmentation()):
            raise ConfigError(
                f"features are of images that do not change, got {batches.augment}; pass "
                "augment=None or Augmentation()"
            )
        if not isinstance(session, PortableTrainSession):
            raise ConfigError("only a portable step has features; export one with features=True")
        if self._of != (session, batches):
            self._allocate(session, len(batches.dataset))
            self._of = (session, batches)
        size = batches.batch_size
        order = np.array(batches.order(epoch, class_map=class_map)).reshape(-1, size)
        unknown = np.flatnonzero(~self._known[order].all(axis=1)).tolist()
        decoded = batches.epoch(epoch, class_map=class_map, only=unknown)
        with contextlib.closing(decoded) as stream:
            for number, plan in enumerate(schedule.steps(epoch)):
                images = order[number]
                if number in unknown:
                    batch = next(stream)
                    self._keep(images, session.features(batch.images))
                else:
                    batch = batches.without_images(images.tolist())
                targets, dropped = fit_targets(batch, session.manifest, overflow)
                features = {name: kept[images] for name, kept in self._kept.items()}
                settings = settings_of(plan, schedule)
                result = session.step_features(features, targets, **settings)
                yield DoneStep(plan=plan, batch=batch, dropped=dropped, result=result)

    def _allocate(self, session: PortableTrainSession, images: int) -> None:
        shapes = session.feature_shapes
        needed = 4 * images * sum(math.prod(shape[1:]) for shape in shapes.values())
        free = available_bytes()
        if free is not None and needed > MOST_OF_MEMORY * free:
            raise ConfigError(
                f"the features of {images} images need {needed / _MEGABYTE:,.0f} MB, "
                f"{free / _MEGABYTE:,.0f} MB of memory are free; train on the images themselves, "
                "or freeze more layers, whose features are smaller"
            )
        if self._tell is not None:
            self._tell(f"features of {images} images: {needed / _MEGABYTE:,.1f} MB of memory")
        self._kept = {name: np.empty((images, *s[1:]), np.float32) for name, s in shapes.items()}
        self._known = np.zeros(images, bool)

    def _keep(self, images: npt.NDArray[np.int64], features: Mapping[str, Array]) -> None:
        for name, array in features.items():
            self._kept[name][images] = array
        self._known[images] = True

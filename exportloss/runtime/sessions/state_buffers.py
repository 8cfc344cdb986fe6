"""A training state in a device's memory, in two buffers a tensor or in one."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeAlias

from exportloss.errors import TrainingError

__all__ = ["OneBuffer", "StateBuffers", "Tensors", "TwoBuffers"]

Tensors: TypeAlias = dict[str, Any]  # `OrtValue` by name
MakeTensors: TypeAlias = Callable[[Collection[str]], Tensors]


class StateBuffers(ABC):
    """The tensors of a state, which runs of graphs read and replace.

    Attributes:
        lock: Lock held while tensors are read or exchanged.
        directions: Tensors that a run reads, and those that it writes, by `side`.
        side: Number of the direction of the next run.
        is_whole: Whether no run has failed while it changed the state, since all of it was set.
        running: Binding of a run that has not been waited for; None if there is none.
    """

    directions: tuple[tuple[Tensors, Tensors], ...]

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.side = 0
        self.is_whole = True
        self.running: Any = None

    @property
    def now(self) -> Tensors:
        """The tensors of the state."""
        return self.directions[self.side][0]

    def wait(self) -> None:
        """Wait for the last run."""
        if self.running is not None:
            self.running.synchronize_outputs()
            self.running = None

    def check_whole(self) -> None:
        """Check that the state is whole.

        Raises:
            TrainingError: it is not.
        """
        if not self.is_whole:
            raise TrainingError(
                "a step failed while it changed the state, of which only a part is new now; load "
                "the state that was saved last"
            )

    @abstractmethod
    def replacing(self) -> contextlib.AbstractContextManager[None]:
        """Return the context of a run that replaces every tensor, in the direction of `side`."""

    @abstractmethod
    def scratch(self, names: Collection[str]) -> Tensors:
        """Return tensors that a run may write while it reads the state, for `adopt`."""

    @abstractmethod
    def adopt(self, written: Tensors) -> None:
        """Make what a run has written to `scratch` a part of the state; the rest stays as it is."""


class TwoBuffers(StateBuffers):
    """Two sets of buffers: a run reads one set and writes the other.

    So nothing is copied, and a run that fails changes nothing. Updating in place would also be
    wrong on GPUs: before ONNX Runtime captures a CUDA graph it runs it a few times, and each run
    would advance the state (onnxruntime issue 32243).
    """

    def __init__(self, names: Collection[str], make: MakeTensors) -> None:
        super().__init__()
        one, other = make(names), make(names)
        self.directions = (one, other), (other, one)

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Return the context of a run from the one set to the other."""
        yield
        self.side = 1 - self.side

    def scratch(self, names: Collection[str]) -> Tensors:
        """Return tensors of the other set."""
        spare = self.directions[self.side][1]
        return {name: spare[name] for name in names}

    def adopt(self, written: Tensors) -> None:
        """Copy what was not written to the other set, which then is the state."""
        now, spare = self.directions[self.side]
        for name in now.keys() - written.keys():
            spare[name].update_inplace(now[name].numpy())
        self.side = 1 - self.side


class OneBuffer(StateBuffers):
    """One set of buffers, which a run changes in place, for states that are large.

    The graph of a step writes a tensor once all that read it are done. A run that fails may have
    changed a part of the state, which has to be loaded again. Other graphs get buffers of their
    own: in place they could overwrite what they have still to read, such as the gradients.
    """

    def __init__(self, names: Collection[str], make: MakeTensors) -> None:
        super().__init__()
        tensors = make(names)
        self.directions = ((tensors, tensors),)
        self._make = make

    @contextlib.contextmanager
    def replacing(self) -> Iterator[None]:
        """Return the context of a run in place."""
        self.is_whole = False  # until the run is complete
        yield
        self.is_whole = True

    def scratch(self, names: Collection[str]) -> Tensors:
        """Return new tensors."""
        return self._make(names)

    def adopt(self, written: Tensors) -> None:
        """Copy what was written to the state."""
        for name, tensor in written.items():
            self.now[name].update_inplace(tensor.numpy())

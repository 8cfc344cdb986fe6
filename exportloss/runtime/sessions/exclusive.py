"""Methods of an object that run one at a time, whichever threads call them."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["exclusive"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Self = TypeVar("_Self", bound="_Locked")


class _Locked(Protocol):
    _lock: threading.RLock


def exclusive(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """Hold the object's `_lock`, a `threading.RLock`, while `method` runs."""

    @functools.wraps(method)
    def locked(
        self: _Self, /, *arguments: _Arguments.args, **options: _Arguments.kwargs
    ) -> _Result:
        with self._lock:
            return method(self, *arguments, **options)

    return locked

"""A detector of the user's own, from a Python function. Needs torch when called.

The function is the user's code, on the user's machine: it is imported and called.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from exportloss.errors import ConfigError, ExportLossError, excerpt

__all__ = ["is_function_name", "load_own_model", "rebuilding"]

_HAS = ("strides", "num_classes")  # see `exportloss.models.DetectorModel`


def is_function_name(model: str | None) -> bool:
    """Return whether `--model` names a function, such as `package.module:function`."""
    return model is not None and ":" in model


def load_own_model(name: str, num_classes: int | None) -> Any:
    """Import a function and return the detector that it makes.

    Args:
        name: `package.module:function`; modules in the working directory are found too.
        num_classes: Number of classes, passed on if the function has a parameter of that name; None
            leaves it to the function.

    Raises:
        ConfigError: The function is missing or fails, or what it returns is no detector of so many
            classes.
    """
    function = _find(name)
    arguments: dict[str, Any] = {}
    if num_classes is not None and _takes_classes(function):
        arguments["num_classes"] = num_classes
    with _working_directory(), _named(name):
        model = function(**arguments)
    _check(name, model, num_classes)
    return model


def rebuilding(name: str) -> Callable[[int], Any] | None:
    """Return how to build the function's detector for a number of classes; None if it has one.

    Args:
        name: As for `load_own_model`, which has been called with it.
    """
    if not _takes_classes(_find(name)):
        return None
    return functools.partial(load_own_model, name)


def _takes_classes(function: Callable[..., Any]) -> bool:
    return "num_classes" in inspect.signature(function).parameters


def _find(name: str) -> Callable[..., Any]:
    module_name, _, function_name = name.rpartition(":")
    if not module_name or not function_name:
        raise ConfigError(
            f"--model {name}: expected a module and a function in it, such as detectors.mine:build"
        )
    _refuse_path(name, module_name, function_name)
    with _working_directory(), _named(name):
        module = import_module(module_name)
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        found = "has no" if function is None else "has another kind of"
        raise ConfigError(
            f"--model {name}: {module.__file__ or module_name} {found} function {function_name!r}"
        )
    return function


def _refuse_path(name: str, module_name: str, function_name: str) -> None:
    """Check that a module is named as Python names it, and say how if it is a path."""
    is_module = all(part.isidentifier() for part in module_name.split("."))
    if is_module and not Path(module_name).is_file():
        return
    *folders, stem = Path(module_name.replace("\\", "/")).with_suffix("").parts or ("",)
    parts = [*folders, stem]
    if all(part.isidentifier() for part in parts):
        advice = f"write {'.'.join(parts)}:{function_name}"
    else:
        advice = (
            "go to the folder that holds it, or add that to PYTHONPATH, and write "
            f"{stem.lstrip('.')}:{function_name}"
        )
    raise ConfigError(
        f"--model {name}: expected the name of a module, as Python imports it, and a function in "
        f"it, such as detectors.mine:build, got {module_name!r}; {advice}"
    )


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the function in errors of the user's code."""
    try:
        yield
    except ExportLossError:
        raise
    except (Exception, SystemExit) as error:  # a script without `if __name__ == "__main__"`
        raise ConfigError(
            f"--model {name} fails: {type(error).__name__}: {excerpt(str(error), 200)}"
        ) from error


@contextlib.contextmanager
def _working_directory() -> Iterator[None]:
    """Let modules of the working directory be imported, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _check(name: str, model: Any, num_classes: int | None) -> None:
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"--model {name} returns an object of class {type(model).__name__}; expected a torch "
            "module"
        )
    if missing := [attribute for attribute in _HAS if not hasattr(model, attribute)]:
        raise ConfigError(
            f"--model {name}: its {type(model).__name__} has no {' and no '.join(missing)}; "
            "exportloss.models.DetectorModel lists what a detector has"
        )
    if not _are_strides(model.strides):
        raise ConfigError(
            f"--model {name}: its strides are {excerpt(repr(model.strides), 100)}; expected input "
            "pixels per cell of each level, such as (8, 16, 32)"
        )
    if num_classes not in (None, model.num_classes):
        raise ConfigError(
            f"--model {name} has {model.num_classes} classes, expected {num_classes}, those of "
            "--data or --nc; give the function a parameter num_classes"
        )


def _are_strides(strides: Any) -> bool:
    if not isinstance(strides, Sequence) or isinstance(strides, str) or not strides:
        return False
    return all(isinstance(stride, int) and stride > 0 for stride in strides)

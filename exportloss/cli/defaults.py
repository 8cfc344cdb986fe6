"""Defaults of flags: read from the dataclass or function that a flag sets."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["default_of", "fill"]

Settings = TypeVar("Settings", bound="DataclassInstance")


def default_of(owner: Callable[..., Any], name: str) -> Any:
    """Return the default value of a dataclass's field or of a function's parameter.

    Args:
        owner: Dataclass or function.
        name: Name of the field or parameter.

    Raises:
        ValueError: The owner has no such field or parameter, or it has no default.
    """
    if dataclasses.is_dataclass(owner):
        field = next((each for each in dataclasses.fields(owner) if each.name == name), None)
        value = dataclasses.MISSING if field is None else field.default
        missing: object = dataclasses.MISSING
    else:
        parameter = inspect.signature(owner).parameters.get(name)
        missing = inspect.Parameter.empty
        value = missing if parameter is None else parameter.default
    if value is missing:
        raise ValueError(f"{owner.__qualname__} has no default for {name!r}")
    return value


def fill(settings: type[Settings], options: argparse.Namespace) -> Settings:
    """Make settings from parsed options; a field that no option is named after has its default."""
    names = [field.name for field in dataclasses.fields(settings)]
    return settings(**{name: getattr(options, name) for name in names if name in options})

"""Settings of a loss, read from hyperparameters: what all kinds of losses have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from exportloss.errors import ConfigError
from exportloss.hyp_keys import TRAINING_KEYS, unknown_keys

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["HypSettings"]


class HypSettings:
    """Base of the frozen dataclasses whose fields are the keys of a loss."""

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "the mapping") -> Self:
        """Read the loss keys of a YOLOv5 `hyp` mapping; its training keys are skipped.

        Args:
            values: Hyperparameters; missing keys keep their defaults.
            source: Name of the mapping, for messages.

        Raises:
            ConfigError: a key is neither a loss key nor a training key of YOLOv5, or a value is
                out of range.
        """
        own = {field.name for field in dataclasses.fields(cls)}
        if unknown := [str(key) for key in values if key not in own | TRAINING_KEYS]:
            named = unknown_keys(unknown, sorted(own), kind=cls.kind)
            raise ConfigError(f"{source}: unknown key {named}")
        make: Callable[..., Self] = cls
        try:
            return make(**{key: value for key, value in values.items() if key in own})
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read the loss keys of a YOLOv5 hyperparameter file.

        Args:
            path: YAML file of at most 1 MiB.

        Raises:
            ConfigError: the file cannot be read, is not a mapping, or holds an unknown key (the
                message suggests the nearest one) or a value out of range.
        """
        from exportloss.reading import read_yaml_mapping

        read = read_yaml_mapping(
            Path(path), expected="`key: value` lines of hyperparameters", error=ConfigError
        )
        return cls.from_mapping(read.values, source=str(path))

"""`--update`: which parameters to train, by a name or by a file of patterns."""

from __future__ import annotations

import re
from pathlib import Path

from exportloss.errors import ConfigError
from exportloss.reading import MAX_YAML_BYTES, read_bounded

__all__ = ["update_choice"]

_EXPECTED = (
    "all, bias, norm, last-K such as last-3, or a file with a pattern of parameter names per line"
)
_NAMED = re.compile(r"all|bias|norm|last-\d{1,6}")


def update_choice(given: str) -> str | tuple[str, ...]:
    """Return the name that was given, or the patterns of a file, one per line.

    Blank lines, and what follows a `#`, are comments.

    Raises:
        ConfigError: it is neither a name nor a readable file of patterns.
    """
    if _NAMED.fullmatch(given):
        return given
    if not given.strip():
        raise ConfigError(f"--update got {given!r}; expected {_EXPECTED}")
    try:
        content = read_bounded(Path(given), MAX_YAML_BYTES, error=ConfigError)
        lines = content.decode("utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise ConfigError(f"--update {given}: no such file; expected {_EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{given} is not text: {error.reason}") from error
    patterns = tuple(filter(None, (line.partition("#")[0].strip() for line in lines)))
    if not patterns:
        raise ConfigError(
            f"{given} has no pattern; expected one per line, such as model.24.* for a detector's "
            "last layer"
        )
    return patterns

"""The folder for files that this package can make again."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["cache_folder"]


def cache_folder() -> Path | None:
    """Return the folder of this package's caches; None to cache nothing.

    The folder is `EXPORTLOSS_CACHE`, or else `exportloss` in the system's folder for caches (on
    Linux `XDG_CACHE_HOME` or `~/.cache`). An empty `EXPORTLOSS_CACHE` disables caches.
    """
    if (own := os.environ.get("EXPORTLOSS_CACHE")) is not None:
        return Path(own) if own else None
    try:
        return user_cache_path("exportloss", appauthor=False)
    except RuntimeError:  # a user without a home
        return None

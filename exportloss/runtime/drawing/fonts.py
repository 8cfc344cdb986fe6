"""Installed fonts that have the letters of class names.

Pillow's own font has little more than ASCII. DejaVu, which comes with matplotlib, has Latin, Greek
and Cyrillic letters; Chinese, Japanese and Korean need a font of the system. A name that no font
can show is written as the number of its class.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import ImageFont

__all__ = ["Font", "drawable_names", "font_for", "font_path"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FOLDERS = (
    "~/.fonts",
    "~/.local/share/fonts",
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "/system/fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
# Parts of the file names of fonts with many letters, the likeliest first.
_LIKELY = (
    "cjk",
    "unicode",
    "wqy",
    "fallback",
    "gothic",
    "ming",
    "yahei",
    "noto",
    "dejavu",
    "arial",
)
_MOST_FONTS = 200  # opened in a search
_PROBE_SIZE = 24
_NO_LETTER = "\U0010ffff"  # in no font, so that it is drawn as a missing letter


@functools.lru_cache(maxsize=256)
def font_for(text: str, size: int) -> Font:
    """Return a font for a text; `size` in pixels."""
    path = font_path(text)
    return ImageFont.load_default(size=size) if path is None else ImageFont.truetype(path, size)


def drawable_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names that can be drawn; a name that no font can show becomes its class number."""
    return tuple(map(_drawable, names, range(len(names))))


@functools.lru_cache(maxsize=64)
def font_path(text: str) -> str | None:
    """Return the file of a font with all letters of a text; None for Pillow's own.

    If no font has all of them, the font with the most is returned.
    """
    letters = frozenset(text) - frozenset(map(chr, range(128)))
    if not letters:
        return None
    best, most = None, 0
    for path in _fonts():
        has = len(letters & _letters(path, letters))
        if has > most:
            best, most = path, has
        if has == len(letters):
            break
    return best


def _drawable(name: str, index: int) -> str:
    path = font_path(name)
    letters = frozenset(name) - frozenset(map(chr, range(128)))
    has_all = not letters or (path is not None and letters <= _letters(path, letters))
    return name if has_all else str(index)


@functools.lru_cache(maxsize=256)
def _letters(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Return those of `letters` that a font has."""
    try:
        font = ImageFont.truetype(path, _PROBE_SIZE)
        missing = _shape(font, _NO_LETTER)
        return frozenset(
            letter for letter in letters if letter.isspace() or _shape(font, letter) != missing
        )
    except OSError:  # no font, or a damaged one
        return frozenset()


def _shape(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


@functools.cache
def _fonts() -> tuple[str, ...]:
    """Return the installed font files: DejaVu first, then the likeliest."""
    found = [path for folder in _FOLDERS for path in _below(Path(folder).expanduser())]
    return tuple(map(str, [*_dejavu(), *sorted(found, key=_likelihood)[:_MOST_FONTS]]))


def _dejavu() -> Iterator[Path]:
    spec = importlib.util.find_spec("matplotlib")
    for place in [] if spec is None else spec.submodule_search_locations or []:
        path = Path(place, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if path.is_file():
            yield path


def _below(folder: Path) -> Iterator[Path]:
    try:
        for path in folder.rglob("*"):
            if path.suffix.lower() in (".ttf", ".ttc", ".otf"):
                yield path
    except OSError:
        return


def _likelihood(path: Path) -> tuple[int, str]:
    name = path.name.lower()
    rank = next((rank for rank, part in enumerate(_LIKELY) if part in name), len(_LIKELY))
    return rank, str(path)

"""Printing of the commands; control characters are made visible, so files cannot send them."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console  # noqa: TID251 - what it is made of
from rich.text import Text

from exportloss.errors import printable

__all__ = ["Terminal", "say"]


class Terminal(Console):
    """Rich's console, for tables and bars, which prints text without interpreting markup.

    Args:
        least_width: Minimal number of columns if the output is not a terminal.
        options: Options of rich's console.
    """

    def __init__(self, *, least_width: int = 0, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        if not self.is_terminal:
            self.width = max(self.width, least_width)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make control characters visible in all text, cells of tables included."""
        return super().render_str(_lines(text), **options)

    def on_broken_pipe(self) -> None:
        """Raise, so that `main` handles it as for output that is not rich's."""
        raise  # noqa: PLE0704 - rich calls this while it handles the BrokenPipeError


def say(text: object = "", *, error: bool = False) -> None:
    """Print text to the output or to the error output, and flush it."""
    print(_lines(str(text)), file=sys.stderr if error else sys.stdout, flush=True)


def _lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))

"""The style of every figure, where matplotlib is installed; a device may well go without."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportloss.errors import InstallationError
from exportloss.runtime.drawing.fonts import font_path
from exportloss.runtime.storage.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["BLUE", "DARK", "GREY", "ORANGE", "figure_file", "matplotlib_missing", "tidy"]

BLUE, ORANGE = "#2563eb", "#ea580c"  # training and validation, where both are drawn
DARK, GREY, _GRID = "#111827", "#9ca3af", "#e5e7eb"


def matplotlib_missing() -> str | None:
    """Return what to say where plots cannot be drawn; None where they can."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return "no plots: matplotlib is not installed; pip install matplotlib"


@contextlib.contextmanager
def figure_file(
    path: Path, width: float, height: float, *, kind: str = "png", names: Sequence[str] = ()
) -> Iterator[Figure]:
    """Yield a figure of so many inches; it is written to the file at the end.

    Args:
        path: where to write.
        width: inches.
        height: inches.
        kind: `png` or `jpeg`.
        names: classes that are written in it: fonts are taken that have their letters.
    """
    try:
        with _without_programs():
            from matplotlib import rc_context
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise InstallationError(
            f"plots need matplotlib, but {error.name} is not installed; pip install matplotlib"
        ) from error
    with rc_context({"font.family": _families(names)}):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)  # draws without a display
        yield figure
        options: dict[str, Any] = {"pil_kwargs": {"quality": 90}} if kind == "jpeg" else {}
        with new_file(path) as temporary:
            figure.savefig(temporary, format=kind, **options)


def tidy(axes: Axes) -> None:
    """Draw a light grid behind what is plotted, and no frame above or at the right."""
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


@contextlib.contextmanager
def _without_programs() -> Iterator[None]:
    """Let no other program be started meanwhile.

    When it is imported, matplotlib asks one for the system's fonts (`fc-list`); it brings its own,
    and does without where there is no such program.
    """

    def refuse(*_: object, **__: object) -> bytes:
        raise FileNotFoundError("no program is started")

    real = subprocess.check_output
    vars(subprocess)["check_output"] = refuse
    try:
        yield
    finally:
        vars(subprocess)["check_output"] = real


def _families(names: Sequence[str]) -> list[str]:
    """Return the fonts to look for letters in: matplotlib's own, then those that names need."""
    from matplotlib.font_manager import FontProperties, fontManager

    families = {"DejaVu Sans": None}
    for path in filter(None, map(font_path, names)):
        fontManager.addfont(path)
        families[FontProperties(fname=path).get_name()] = None
    return list(families)

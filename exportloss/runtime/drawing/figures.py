"""The style of all figures; needs matplotlib, which a device need not have."""

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

BLUE, ORANGE = "#2563eb", "#ea580c"  # training and validation
DARK, GREY, _GRID = "#111827", "#9ca3af", "#e5e7eb"


def matplotlib_missing() -> str | None:
    """Return a note if matplotlib is missing; None if plots can be drawn."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return "no plots: matplotlib is not installed; pip install matplotlib"


@contextlib.contextmanager
def figure_file(
    path: Path, width: float, height: float, *, kind: str = "png", names: Sequence[str] = ()
) -> Iterator[Figure]:
    """Yield a figure that is written to a file at the end.

    Args:
        path: File to write.
        width: Width, inches.
        height: Height, inches.
        kind: `png` or `jpeg`.
        names: Class names in the figure; fonts with their letters are used.

    Raises:
        ArtifactError: the file cannot be written.
        InstallationError: matplotlib is missing.
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
        FigureCanvasAgg(figure)  # needs no display
        yield figure
        options: dict[str, Any] = {"pil_kwargs": {"quality": 90}} if kind == "jpeg" else {}
        with new_file(path) as temporary:
            figure.savefig(temporary, format=kind, **options)


def tidy(axes: Axes) -> None:
    """Draw a light grid behind the data, and no frame at the top and right."""
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


@contextlib.contextmanager
def _without_programs() -> Iterator[None]:
    """Keep an import from starting other programs.

    When imported, matplotlib asks a program, `fc-list`, for the system's fonts; without it, it uses
    its own.
    """

    def refuse(*_: object, **__: object) -> bytes:
        raise FileNotFoundError("programs may not be started here")

    real = subprocess.check_output
    vars(subprocess)["check_output"] = refuse
    try:
        yield
    finally:
        vars(subprocess)["check_output"] = real


def _families(names: Sequence[str]) -> list[str]:
    """Return the font families to use: matplotlib's own, then those that the names need."""
    from matplotlib.font_manager import FontProperties, fontManager

    families = {"DejaVu Sans": None}
    for path in filter(None, map(font_path, names)):
        fontManager.addfont(path)
        families[FontProperties(fname=path).get_name()] = None
    return list(families)

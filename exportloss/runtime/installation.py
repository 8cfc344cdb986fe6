"""Finding ONNX Runtime: several distributions install the same import package."""

from __future__ import annotations

import os
from importlib import import_module, metadata
from types import ModuleType

from exportloss.errors import InstallationError
from exportloss.runtime.kinds import KINDS

__all__ = ["import_onnxruntime", "import_onnxruntime_training"]

_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
)


# Read when onnxruntime is loaded: releases from 1.29 on report to their maker without it.
_SILENCE = ("ORT_DISABLE_TELEMETRY", "1")


def import_onnxruntime() -> ModuleType:
    """Return the `onnxruntime` package, which sends nothing to its maker.

    Raises:
        InstallationError: none of its distributions is installed, or two are.
    """
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise InstallationError(
            f"{' and '.join(installed)} are installed together; they overwrite each other's "
            f"files. Uninstall all of them (pip uninstall {' '.join(installed)}), then install "
            "the one you need"
        )
    os.environ.setdefault(*_SILENCE)
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise InstallationError(
            f"onnxruntime is not installed; install one of {_list_extras()}"
        ) from error


def import_onnxruntime_training() -> ModuleType:
    """Return the C classes of ONNX Runtime's training API, which need neither torch nor onnx.

    Raises:
        InstallationError: the installed distribution has no training API.
    """
    import_onnxruntime()
    bindings = import_module("onnxruntime.capi._pybind_state")
    if not hasattr(bindings, "Module"):
        raise InstallationError(
            "the installed onnxruntime has no training API; training artifacts need "
            "exportloss[training] (onnxruntime-training-cpu 1.19.2, Python 3.11) in an "
            "environment of its own"
        )
    return bindings


def _list_extras() -> str:
    """List the extras that bring an engine, each with the formats of artifacts that it runs."""
    formats: dict[str, list[str]] = {}
    for kind in KINDS.values():
        for extra in kind.extras:
            formats.setdefault(extra, []).append(kind.format)
    return ", ".join(
        f"exportloss[{extra}] (for format {' and '.join(names)})"
        for extra, names in formats.items()
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

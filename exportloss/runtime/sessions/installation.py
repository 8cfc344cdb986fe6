"""Imports of the engines, and pip commands for those that are missing.

Several distributions of ONNX Runtime install the same import package.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import exportloss
from exportloss.errors import InstallationError
from exportloss.runtime.artifact.kinds import KINDS

__all__ = ["how_to_install", "import_onnxruntime", "import_onnxruntime_training"]

_NAME = "exportloss"

_DISTRIBUTIONS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
)


# Read when onnxruntime is loaded; without it, releases from 1.29 on send telemetry.
_SILENCE = ("ORT_DISABLE_TELEMETRY", "1")


def how_to_install(extra: str) -> str:
    """Return the pip command that adds an extra to this installation of exportloss.

    The command installs the package from its origin: a checkout, a file, a repository or an
    index. If the checkout is gone, the command is one to run in any checkout.

    Args:
        extra: Group of optional dependencies, such as `export`.
    """
    try:
        distribution = metadata.distribution(_NAME)
        content = json.loads(distribution.read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        # Run from a checkout through PYTHONPATH.
        root = Path(exportloss.__file__).parents[1]
        content = {"url": root.as_uri(), "dir_info": {}} if _is_checkout(root) else {}
    return f"pip install {_requirement(content if isinstance(content, dict) else {}, extra)}"


def _requirement(origin: dict[str, Any], extra: str) -> str:
    """Return pip's requirement for the package with an extra, quoted for a shell.

    Args:
        origin: Content of `direct_url.json`; empty if the package came from an index.
        extra: Group of optional dependencies.
    """
    url = str(origin.get("url", ""))
    if isinstance(version := origin.get("vcs_info"), dict):
        revision = f"@{version['commit_id']}" if "commit_id" in version else ""
        return shlex.quote(f"{_NAME}[{extra}] @ {version.get('vcs', 'git')}+{url}{revision}")
    if "dir_info" not in origin:
        return shlex.quote(f"{_NAME}[{extra}]{f' @ {url}' if url else ''}")
    root = _path_of(url)
    if not _is_checkout(root):
        return f"'.[{extra}]' in a checkout of {_NAME}"
    details = origin["dir_info"]
    is_editable = isinstance(details, dict) and bool(details.get("editable"))
    return f"{'-e ' * is_editable}{shlex.quote(f'{root}[{extra}]')}"


def _path_of(url: str) -> Path:
    """Return the path of a `file:` URL; urllib, which could open others, is not imported."""
    path = url.removeprefix("file://").removeprefix("localhost").encode()
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes([int(match[1], 16)]), path)
    text = os.fsdecode(decoded)
    return Path(text[1:] if os.name == "nt" else text)


def _is_checkout(root: Path) -> bool:
    return (root / "pyproject.toml").is_file() and (root / _NAME).is_dir()


def import_onnxruntime() -> ModuleType:
    """Return the `onnxruntime` package, with its telemetry disabled.

    Where torch is installed, the training build would import it, only to learn the version that it
    was built as: seconds, and memory that no session needs.

    Raises:
        InstallationError: none of its distributions is installed, or several are.
    """
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        raise InstallationError(
            f"{' and '.join(installed)} are installed together, but overwrite each other's files. "
            f"Uninstall all of them (pip uninstall {' '.join(installed)}), then install the one "
            "you need"
        )
    os.environ.setdefault(*_SILENCE)
    # Of a build for CUDA torch loads the libraries, so it may be needed there.
    is_light = installed == ["onnxruntime-training-cpu"]
    try:
        with _absent("onnxruntime.training") if is_light else contextlib.nullcontext():
            return import_module("onnxruntime")
    except ImportError as error:
        raise InstallationError(f"onnxruntime is not installed; {_list_extras()}") from error


@contextlib.contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let imports of a module fail, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say so
    try:
        yield
    finally:
        del sys.modules[name]


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
            "onnxruntime-training-cpu 1.19.2 and Python 3.10 to 3.12. In a new environment, run "
            f"{how_to_install('training')}"
        )
    return bindings


def _list_extras() -> str:
    """List the extras that install an engine, each with the artifact formats that it runs."""
    formats: dict[str, list[str]] = {}
    for kind in KINDS.values():
        for extra in kind.extras:
            formats.setdefault(extra, []).append(kind.format)
    return ", or ".join(
        f"{how_to_install(extra)} (for format {' and '.join(names)})"
        for extra, names in formats.items()
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

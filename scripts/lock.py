"""`python scripts/lock.py requirements-dev.txt`: write `requirements-dev.lock`, with hashes.

Pins the version and sha256 of every file that pip would install, from the indexes that it is
configured for. So a lock is valid for one kind of machine only, Linux on x86-64 with Python 3.11,
unless the file's name says otherwise: `requirements-py310.txt` is for Python 3.10, whose
interpreter has to be there, and `requirements-arm.txt` for Debian 13 on aarch64.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import interpreters

_HEADER = """\
# Made from {source} by `make lock`; for CPython {python} on Linux, {machine}. Not to be edited.
"""
# The oldest libc first: pip takes files for any of these.
_AARCH64 = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
_DEBIAN_13 = "3.13"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """Kind of machine that a lock is for.

    Attributes:
        interpreter: Path of the Python whose pip finds the files.
        python: Its version or, with `platforms`, the one to find files for, such as `3.10`.
        machine: Name of the processor, for the lock's header.
        platforms: Tags of wheels; empty for those of the interpreter itself.
    """

    interpreter: str
    python: str
    machine: str = "x86-64"
    platforms: Sequence[str] = ()

    def options(self, folder: str) -> list[str]:
        """Return pip's options for another platform, which wants a folder to install to."""
        if not self.platforms:
            return []
        platforms = [f"--platform={tag}" for tag in self.platforms]
        return [f"--target={folder}", f"--python-version={self.python}", *platforms]


def target_of(source: Path) -> Target | None:
    """Return what the lock of a requirements file is for; None if its interpreter is missing."""
    name = source.stem.removeprefix("requirements-")
    if name == "arm":
        return Target(
            interpreter=sys.executable, python=_DEBIAN_13, machine="aarch64", platforms=_AARCH64
        )
    version = interpreters.version_of(name)
    if version is None:
        return Target(interpreter=sys.executable, python="3.11")
    found = interpreters.find(version)
    return None if found is None else Target(interpreter=found, python=version)


def locked(source: Path, target: Target) -> str:
    """Return the content of the lock for a requirements file."""
    command = [target.interpreter, "-m", "pip", "install", "--quiet", "--dry-run", "--report=-"]
    command += ["--ignore-installed", "--only-binary=:all:", f"--requirement={source}"]
    with tempfile.TemporaryDirectory() as folder:
        command += target.options(folder)
        report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    entries = sorted(map(_entry, report["install"]))
    header = _HEADER.format(source=source.name, python=target.python, machine=target.machine)
    return header + "".join(entries)


def _entry(installed: dict[str, Any]) -> str:
    name, version = (installed["metadata"][key] for key in ("name", "version"))
    digest = installed["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name.lower().replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        if (wanted := target_of(path)) is None:
            print(f"{path.with_suffix('.lock')} is kept: its Python was not found")
        else:
            path.with_suffix(".lock").write_text(locked(path, wanted), encoding="ascii")

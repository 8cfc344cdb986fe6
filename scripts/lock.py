"""`python scripts/lock.py requirements-dev.txt`: write `requirements-dev.lock`, with hashes.

Pins the version and sha256 of every file that pip would install here, from the indexes that it is
configured for. So a lock is valid for one kind of machine only: Linux on x86-64 with Python 3.11.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

_HEADER = """\
# Made from {source} by `make lock`; for CPython 3.11 on Linux, x86-64. Not to be edited.
"""


def locked(source: Path) -> str:
    """Return the content of the lock for a requirements file."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report=-"]
    command += ["--ignore-installed", "--only-binary=:all:", f"--requirement={source}"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    entries = sorted(map(_entry, report["install"]))
    return _HEADER.format(source=source.name) + "".join(entries)


def _entry(installed: dict[str, Any]) -> str:
    name, version = (installed["metadata"][key] for key in ("name", "version"))
    digest = installed["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name.lower().replace('_', '-')}=={version} \\\n    --hash=sha256:{digest}\n"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.with_suffix(".lock").write_text(locked(path), encoding="ascii")

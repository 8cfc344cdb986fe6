"""`python scripts/interpreters.py py310`: print the path of an interpreter for an environment.

The name begins with the Python that it needs, `py310` with 3.10. It is the interpreter that the
variable PYTHON310 names; else the first one that runs of `python3.10` on the PATH and pyenv's
versions. The exit status is 1, with the reason, if there is none.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_ABOUT = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"


def version_of(environment: str) -> str | None:
    """Return `3.10` for `py310` and `py310-training`; None for names without a version."""
    found = re.match(r"py(\d)(\d+)(?:-|$)", environment)
    return None if found is None else f"{found[1]}.{found[2]}"


def find(version: str) -> str | None:
    """Return the path of a CPython of this version; None if none is found."""
    return next((path for path in _candidates(version) if _is(path, version)), None)


def _candidates(version: str) -> Iterator[str]:
    if named := os.environ.get(_variable(version)):
        yield named  # and no other: a mistake in it should not go unseen
        return
    if on_path := shutil.which(f"python{version}"):
        yield on_path
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    versions = pyenv.glob(f"versions/{version}.*/bin/python")
    yield from map(str, sorted(versions, key=_numbers, reverse=True))


def _variable(version: str) -> str:
    return f"PYTHON{version.replace('.', '')}"


def _numbers(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.parts[-3])]


def _is(path: str, version: str) -> bool:
    try:  # pyenv's shims exist for versions that are not selected, and fail
        done = subprocess.run([path, "-c", _ABOUT], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == f"cpython {version}"


def main(environment: str) -> int:
    """Print the interpreter, or say that there is none."""
    version = version_of(environment)
    if version is None:
        print(f"{environment}: expected a name such as py310", file=sys.stderr)
        return 2
    if path := find(version):
        print(path)
        return 0
    print(
        f"no Python {version} was found: neither python{version} on the PATH nor in pyenv; "
        f"pass {_variable(version)}=/path/to/python{version}",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

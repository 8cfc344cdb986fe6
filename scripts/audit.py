"""`python scripts/audit.py`: check the locked packages for known vulnerabilities.

Runs pip-audit, which asks the package index about every package of each lock. The exit status is 1
if a vulnerability is known. If the index does not answer, or has no data on any package of a lock,
the script reports that, and it is no failure.
"""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_TOOL = "pip-audit"
_SECONDS = 60  # per lock
_LONGEST = 200  # characters of an error message


@dataclasses.dataclass(frozen=True)
class Vulnerability:
    """Known vulnerability of a package.

    Attributes:
        package: Name and version of the package.
        name: CVE identifier, or another one if there is none.
        fixed_in: Versions that fix it.
    """

    package: str
    name: str
    fixed_in: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """Answer of the index for a lock.

    Attributes:
        asked: Number of packages in the lock.
        known: Number of those that the index has data on.
        vulnerabilities: Known vulnerabilities of those.
    """

    asked: int
    known: int
    vulnerabilities: tuple[Vulnerability, ...]


def read_answer(text: str) -> Answer:
    """Return the answer in the JSON output of pip-audit."""
    packages = json.loads(text)["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    return Answer(len(packages), len(audited), tuple(_vulnerabilities(audited)))


def _vulnerabilities(packages: list[dict[str, Any]]) -> Iterator[Vulnerability]:
    for package in packages:
        for found in package["vulns"]:
            known_as = found["id"], *found["aliases"]
            name = next((one for one in known_as if one.startswith("CVE-")), known_as[0])
            fixed = ", ".join(found["fix_versions"]) or "no release yet"
            yield Vulnerability(f"{package['name']} {package['version']}", name, fixed)


def audit(lock: Path) -> Answer:
    """Ask the index about the packages of a lock, without installing anything.

    Raises:
        OSError: pip-audit is not installed.
        SubprocessError: pip-audit takes too long.
        ValueError: pip-audit gives no answer.
    """
    command = [str(Path(sys.executable).with_name(_TOOL)), "--disable-pip", "--no-deps"]
    command += ["--require-hashes", "--progress-spinner=off", "--format=json", f"-r={lock}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    try:
        return read_answer(done.stdout)
    except (ValueError, KeyError) as error:
        raise ValueError((done.stderr.strip().splitlines() or ["no answer"])[-1]) from error


def _without_repeats(locks: Iterable[Path]) -> Iterator[Path]:
    """Skip locks that only have releases of longer ones, for another Python or processor."""
    seen: set[str] = set()
    for lock in sorted(locks, key=lambda lock: (-lock.stat().st_size, lock)):
        releases = set(re.findall(r"^\S+==\S+", lock.read_text(encoding="ascii"), re.MULTILINE))
        if not releases <= seen:
            yield lock
        seen |= releases


def main() -> int:
    """Audit all locks; return 1 if any package has a known vulnerability."""
    vulnerable = False
    for lock in _without_repeats(ROOT.glob("requirements-*.lock")):
        try:
            answer = audit(lock)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"known vulnerabilities: not checked: {str(error)[:_LONGEST]}")
            return int(vulnerable)
        if not answer.known:
            print(
                "known vulnerabilities: not checked: the index has no data on any of the "
                f"{answer.asked} packages in {lock.name}"
            )
            return int(vulnerable)
        for found in answer.vulnerabilities:
            print(f"{lock.name}: {found.package} has {found.name}, fixed in {found.fixed_in}")
        vulnerable = vulnerable or bool(answer.vulnerabilities)
        count = len(answer.vulnerabilities)
        print(f"known vulnerabilities: {count} in {answer.known} packages of {lock.name}")
    return int(vulnerable)


if __name__ == "__main__":
    sys.exit(main())

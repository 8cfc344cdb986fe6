"""`python scripts/audit.py`: ask the package index whether faults are known of what is locked.

pip-audit asks, for each package of each lock. Exits with 1 where one is known. Where the index does
not answer, or tells nothing of any package, that is said, and nothing is held against anyone.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_TOOL = "pip-audit"
_SECONDS = 60  # for each lock
_LONGEST = 200  # characters of what went wrong


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault that is known of a package."""

    package: str
    name: str
    fixed_in: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the index says of a lock.

    Attributes:
        asked: packages in it.
        known: of how many of them the index could say anything.
        faults: what is known of those.
    """

    asked: int
    known: int
    faults: tuple[Fault, ...]


def read_answer(text: str) -> Answer:
    """Read pip-audit's JSON."""
    packages = json.loads(text)["dependencies"]
    audited = [package for package in packages if "skip_reason" not in package]
    return Answer(len(packages), len(audited), tuple(_faults(audited)))


def _faults(packages: list[dict[str, Any]]) -> Iterator[Fault]:
    for package in packages:
        for fault in package["vulns"]:
            known_as = fault["id"], *fault["aliases"]
            name = next((one for one in known_as if one.startswith("CVE-")), known_as[0])
            fixed = ", ".join(fault["fix_versions"]) or "no release yet"
            yield Fault(f"{package['name']} {package['version']}", name, fixed)


def audit(lock: Path) -> Answer:
    """Ask for the packages of a lock; nothing is installed.

    Raises:
        OSError: there is no pip-audit.
        SubprocessError: it takes too long.
        ValueError: it gives no answer.
    """
    command = [str(Path(sys.executable).with_name(_TOOL)), "--disable-pip", "--no-deps"]
    command += ["--require-hashes", "--progress-spinner=off", "--format=json", f"-r={lock}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    try:
        return read_answer(done.stdout)
    except (ValueError, KeyError) as error:
        raise ValueError((done.stderr.strip().splitlines() or ["no answer"])[-1]) from error


def main() -> int:
    """Audit all locks; return 1 if a fault is known of any package."""
    faulty = False
    for lock in sorted(ROOT.glob("requirements-*.lock")):
        try:
            answer = audit(lock)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"known faults: not asked for, since {str(error)[:_LONGEST]}")
            return int(faulty)
        if not answer.known:
            print(f"known faults: the index says nothing of {answer.asked} packages in {lock.name}")
            return int(faulty)
        for fault in answer.faults:
            print(f"{lock.name}: {fault.package} has {fault.name}, fixed in {fault.fixed_in}")
        faulty = faulty or bool(answer.faults)
        print(f"known faults: {len(answer.faults)} in {answer.known} packages of {lock.name}")
    return int(faulty)


if __name__ == "__main__":
    sys.exit(main())

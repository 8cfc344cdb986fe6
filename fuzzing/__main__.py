"""`python -m fuzzing [TARGET ...] [--seconds 60]`: search with atheris for what breaks a reader."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzzing.targets import Target

_SEEDS = Path(__file__).parent / "seeds"
_FOUND = Path("build") / "fuzzing"  # input that broke a reader, and atheris's corpora
_IN_MEMORY = Path("/dev/shm")  # ten times as many files per second as on a disk
_SLOWEST = 20  # seconds per input
_MEMORY = 3072  # MiB for the process, including torch
_SHOWN = 4000  # characters of a failed process's output
_INSTRUMENTED = ["exportloss", "yaml", "pickletools"]  # torch would take minutes


def main() -> int:
    """Fuzz each target in its own process, and return the number that failed."""
    parser = argparse.ArgumentParser(prog="python -m fuzzing", description=__doc__)
    names = sorted(path.name for path in _SEEDS.iterdir())
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    parser.add_argument("--seconds", type=int, default=60, help="seconds per target")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time; the processors"
    )
    parser.add_argument("--scratch", help=argparse.SUPPRESS)  # for the process of one target
    options = parser.parse_args()
    if unknown := set(options.targets) - set(names):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(names)}")
    if options.scratch:
        _fuzz(options.targets[0], options.seconds, Path(options.scratch))
    with ThreadPoolExecutor(options.jobs) as threads:
        passed = list(
            threads.map(lambda name: _passes(name, options.seconds), options.targets or names)
        )
    broken = passed.count(False)
    print(f"{len(passed) - broken} passed, {broken} failed")
    return broken


def _passes(name: str, seconds: int) -> bool:
    """Fuzz one target in a child process, and print a line about it."""
    command = [sys.executable, "-m", "fuzzing", name, f"--seconds={seconds}", "--scratch"]
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as scratch:
        command.append(scratch)
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    statistics = dict(re.findall(r"stat::(\w+): +(\d+)", done.stderr))
    passed = done.returncode == 0
    print(
        f"{name:13} {statistics.get('number_of_executed_units', '?'):>9} executions, "
        f"{statistics.get('average_exec_per_sec', '?'):>6} per second, "
        f"{statistics.get('peak_rss_mb', '?'):>5} MiB: {'passed' if passed else 'FAILED'}",
        flush=True,
    )
    if not passed:
        print(done.stdout[-_SHOWN:], done.stderr[-_SHOWN:], sep="\n", flush=True)
    return passed


def _fuzz(name: str, seconds: int, scratch: Path) -> None:
    """Run atheris on one target; it ends this process."""
    import atheris
    import onnxscript  # noqa: F401 - with onnx and torch, before instrumentation begins
    from torch._weights_only_unpickler import Unpickler

    atheris.instrument_func(Unpickler.load)
    with atheris.instrument_imports(include=_INSTRUMENTED):
        from fuzzing.targets import SEEDS, TARGETS, read_made_up

    target = TARGETS[name]

    def run(content: bytes) -> None:
        read_made_up(target, content, scratch)

    corpus = _FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [
            "fuzzing",
            str(corpus),
            str(SEEDS / name),
            *_dictionary(target, _FOUND / f"{name}.dict"),
            f"-artifact_prefix={_FOUND / name}-",
            f"-max_total_time={seconds}",
            f"-timeout={_SLOWEST}",
            f"-rss_limit_mb={_MEMORY}",
            "-print_final_stats=1",
        ],
        run,
    )
    atheris.Fuzz()


def _dictionary(target: Target, path: Path) -> list[str]:
    """Write the target's words as a libFuzzer dictionary, and return the option for it."""
    if not target.tokens:
        return []
    words = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.tokens)
    path.write_text("".join(words), encoding="ascii")
    return [f"-dict={path}"]


if __name__ == "__main__":
    sys.exit(main())

"""Measure what a round costs the server: `python benchmarks/fleet_scale.py`.

    python benchmarks/fleet_scale.py [--clients 8 64 512] [--artifacts FOLDER] [--rounds N]

Virtual clients, in this process, through the server's own code. They do not train: each answers
with the global weights and a little noise, so that what is measured is the server's part: checks,
average, validation, files. Per number of clients: seconds and MB per round, bytes per client, and
the exponent of growth, n^exponent.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from exportloss.fleet.messages import Answer, Result, Task
from exportloss.fleet.server import run_fleet
from exportloss.fleet.settings import FleetSettings
from exportloss.runtime import TrainSession
from exportloss.runtime.training.run_folder import RunFolder


class Virtual:
    """Clients whose training is noise."""

    def __init__(self, count: int) -> None:
        self._count = count

    def nodes(self) -> Sequence[int]:
        """Return the clients' numbers."""
        return range(self._count)

    def ask(self, task: Task, nodes: Sequence[int], seconds: float) -> Iterator[Answer]:
        """Return an answer per client, all of which the server holds at once."""
        for node in nodes:
            rng = np.random.default_rng([task.round, node])
            noise = rng.normal(0, 1e-4, task.vectors.parameters.shape).astype(np.float32)
            sent = dataclasses.replace(
                task.vectors,
                parameters=task.vectors.parameters + noise,
                statistics=task.vectors.statistics.copy(),
            )
            result = Result(name=f"client{node:06}", images=64, metrics={"box": 0.1}, vectors=sent)
            yield Answer(node=node, result=result)


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return float(text.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def measure(artifacts: Path, clients: int, rounds: int) -> dict[str, float]:
    """Return seconds and MB of a number of clients; call it in a process of its own."""
    session = TrainSession.open(artifacts, threads=1, evaluation_only=True)
    before = peak_mb()
    with tempfile.TemporaryDirectory() as place:
        record = run_fleet(
            Virtual(clients),
            FleetSettings(rounds=rounds, quorum=clients),
            session=session,
            data=None,
            folder=RunFolder.create(place, "run"),
        )
    seconds = [one.seconds for one in record.rounds]
    return {
        "clients": clients,
        "seconds": statistics.median(seconds),
        "peak_mb": peak_mb(),
        "start_mb": before,
        "bytes": record.rounds[0].bytes_up,
    }


def main() -> None:
    """Measure each number of clients in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--artifacts", type=Path, default=Path("build/fleet/artifacts"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.artifacts, options.one, options.rounds)))
        return
    rows = []
    for clients in options.clients:
        command = [sys.executable, __file__, "--one", str(clients)]
        command += ["--artifacts", str(options.artifacts), "--rounds", str(options.rounds)]
        started = time.monotonic()
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(found))
        row = rows[-1]
        print(
            f"{clients:6} clients: {row['seconds']:7.2f} s a round, {row['peak_mb']:6.0f} MB "
            f"({row['start_mb']:.0f} before), {row['bytes']} bytes a client; "
            f"{time.monotonic() - started:.0f} s in all",
            flush=True,
        )
    for one, other in itertools.pairwise(rows):
        ratio = math.log(other["clients"] / one["clients"])
        grown = {
            "seconds": math.log(other["seconds"] / one["seconds"]) / ratio,
            "MB beyond the start": math.log(
                (other["peak_mb"] - other["start_mb"]) / (one["peak_mb"] - one["start_mb"])
            )
            / ratio,
        }
        text = ", ".join(f"{name} n^{value:.2f}" for name, value in grown.items())
        print(f"{one['clients']} to {other['clients']} clients: {text}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

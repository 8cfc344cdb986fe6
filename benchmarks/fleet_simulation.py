"""Measure Flower's simulation of many devices: `python benchmarks/fleet_simulation.py`.

    .venv-fleet/bin/python benchmarks/fleet_simulation.py [--clients 8 64 512] [--rounds N]

Needs the environment and the artifacts that `make fleet-test` makes. Every device trains a tiny
detector, in Ray's processes. Printed per number of devices: seconds of the run's first round and of
the others, bytes per device, the largest memory of the server's process and of all processes, and
the exponents of growth, n^exponent.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.loopback import BUILD, Loopback

SERVER = (
    "flwr-serverapp",
    "flwr-simulation",
)  # the process that runs the rounds, by Flower's command


@dataclasses.dataclass(kw_only=True)
class Memory:
    """Largest proportional memory seen, MB of 10^6 bytes."""

    server: float = 0
    all: float = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What a number of devices cost."""

    clients: int
    first: float
    seconds: float
    sent: int
    memory: Memory


def processes(home: Path) -> Iterator[tuple[str, float]]:
    """Yield command line and MB of each process started with a `FLWR_HOME`."""
    mark = f"FLWR_HOME={home}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark not in (place / "environ").read_bytes().split(b"\0"):
                continue
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            text = (place / "smaps_rollup").read_text(encoding="ascii")
            yield words, float(text.partition("\nPss:")[2].split()[0]) * 1024 / 1e6
        except (OSError, IndexError, ValueError):  # it has ended
            continue


@contextmanager
def watching(home: Path) -> Iterator[Memory]:
    """Look at the memory every second."""
    most, done = Memory(), threading.Event()

    def watch() -> None:
        while not done.wait(1):
            found = list(processes(home))
            servers = [mb for words, mb in found if any(name in words for name in SERVER)]
            most.server = max([most.server, *servers])
            most.all = max(most.all, sum(mb for _, mb in found))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        done.set()
        thread.join()


def measure(clients: int, rounds: int) -> Row:
    """Run a simulation in a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "nodes").mkdir()
        for number in range(clients):
            (root / "nodes" / f"{number}.toml").write_text(
                f'name = "camera-{number:06}"\nartifacts = "{BUILD}/artifacts"\n'
                f'data = "{BUILD}/device{number % 2}/data.yaml"\nstate = "{root}/own{number}"\n',
                encoding="utf-8",
            )
        fleet = Loopback(root)
        fleet.env["EXPORTLOSS_FLEET_NODES"] = str(root / "nodes")
        try:
            fleet.start_server(secure=False, simulation=True)
            given = f"num-supernodes={clients} client-resources-num-cpus=1"
            settings = {"rounds": rounds, "quorum": clients, "data": "", "calibrate": False}
            with watching(fleet.home) as memory:
                fleet.run("run", "--federation-config", given, **settings)
                until = time.monotonic() + 3600
                while not fleet.record().get("finished") and time.monotonic() < until:
                    time.sleep(1)
            found = fleet.finished(seconds=1)["rounds"]
        finally:
            fleet.close()
    seconds = [one["seconds"] for one in found]
    return Row(
        clients=clients,
        first=seconds[0],
        seconds=statistics.median(seconds[1:] or seconds),
        sent=found[-1]["bytes_up"],
        memory=memory,
    )


def main() -> None:
    """Measure each number of devices."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for clients in options.clients:
        row = measure(clients, options.rounds)
        rows.append(row)
        print(
            f"{clients:6} devices: {row.seconds:6.1f} s per round ({row.first:.1f} the first), "
            f"{row.sent} bytes each way, {row.memory.server:.0f} MB the server's process, "
            f"{row.memory.all:.0f} MB all",
            flush=True,
        )
    for one, other in itertools.pairwise(rows):
        ratio = math.log(other.clients / one.clients)
        grown = {
            "seconds": math.log(other.seconds / one.seconds) / ratio,
            "MB of the server's process": math.log(other.memory.server / one.memory.server) / ratio,
            "MB of all": math.log(other.memory.all / one.memory.all) / ratio,
        }
        text = ", ".join(f"{name} n^{value:.2f}" for name, value in grown.items())
        print(f"{one.clients} to {other.clients} devices: {text}")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

"""A server and devices of Flower on loopback, started by the commands of `docs/fleets.md`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "fleet"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
os.environ.update(QUIET)


def documented(phrase: str) -> str:
    """The commands of the page in the block that holds a phrase."""
    text = (ROOT / "docs/fleets.md").read_text(encoding="utf-8")
    (block,) = [b for b in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if phrase in b]
    return block


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait(until: Callable[[], Any], seconds: float = 120, about: str = "") -> Any:
    """What `until` returns once it is true; a failure after that many seconds."""
    end = time.monotonic() + seconds
    while not (found := until()):
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s: {about}", pytrace=False)
        time.sleep(0.2)
    return found


class Loopback:
    """One server, its devices and runs, with everything in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.home = root / "home"
        self.home.mkdir()
        self.env = {**os.environ, "FLWR_HOME": str(self.home)}
        self.secure = False

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self.env,
                cwd=self.root,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return (self.root / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        for name in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.processes[name].pid, signal.SIGTERM)
        for name in list(self.processes):
            self.kill(name, signal.SIGTERM)

    def shell(self, commands: str) -> str:
        done = subprocess.run(
            commands,
            shell=True,
            env=self.env,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def documented(self, phrase: str, **changes: str) -> list[str]:
        command = documented(phrase).replace("fleet.example.org:8000", f"127.0.0.1:{self.port}")
        for old, new in changes.items():
            assert old in command, old
            command = command.replace(old, new)
        return shlex.split(command.replace("\\\n", " "))

    def start_server(self, *, secure: bool, simulation: bool = False) -> None:
        self.secure = secure
        if secure:
            if not (self.root / "server.crt").exists():
                self.shell(documented("openssl req -x509"))
            command = self.documented("flower-superlink")
            command[command.index("0.0.0.0")] = "127.0.0.1"
            command[command.index("8000")] = str(self.port)
        else:
            command = ["flower-superlink", "--insecure", "--port", str(self.port)]
            command += ["--disable-runtime-dependency-installation"]
            command += ["--simulation"] if simulation else ["--database", "fleet.db"]
        trust = f'root-certificates = "{self.root}/ca.crt"' if secure else "insecure = true"
        (self.home / "config.toml").write_text(
            '[superlink]\ndefault = "fleet"\n\n[superlink.fleet]\n'
            f'address = "127.0.0.1:{self.port}"\n{trust}\n'
        )
        self.start("server", command)
        wait(self.listens, about="the server")

    def listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def start_node(self, number: int, *, register: bool = True, **config: str) -> None:
        values = {
            "name": f"camera-{number}",
            "artifacts": str(BUILD / "artifacts"),
            "data": str(BUILD / f"device{number}" / "data.yaml"),
            "state": str(self.root / f"state{number}"),
        } | config
        given = " ".join(f'{key}="{value}"' for key, value in values.items())
        if self.secure:
            key = self.root / f"node{number}.key"
            if not key.exists():
                self.shell(documented("ssh-keygen").replace("node.key", str(key)))
                if register:
                    self.shell(documented("register").replace("node.key", str(key)))
            command = self.documented("flower-supernode", **{"node.key": str(key)})
            command[command.index("--node-config") + 1] = given
        else:
            command = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{self.port}"]
            command += ["--node-config", given]
        self.start(f"node{number}", [*command, "--port", str(free_port())])

    def run(self, output: str = "run", *more: str, **settings: object) -> None:
        """Start a run."""
        self.shell(shlex.join(self._run(output, *more, **settings)))

    def run_to_the_end(self, output: str = "run", **settings: object) -> str:
        """What `flwr run` shows of a run until it ends."""
        command = self._run(output, "--stream", **settings)
        done = subprocess.run(
            command,
            env=self.env,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        return done.stdout + done.stderr

    def _run(self, output: str, *more: str, **settings: object) -> list[str]:
        values = {
            "artifacts": str(BUILD / "artifacts"),
            "data": str(BUILD / "device2" / "data.yaml"),
            "output": str(self.root / output),
            "rounds": 2,
        } | settings
        app = self.root / "app"
        if not app.exists():
            self.shell(f"{sys.executable} -m exportloss fleet new app")
        given = " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())
        return ["flwr", "run", str(app), "fleet", "--run-config", given, *more]

    def record(self, output: str = "run") -> dict[str, Any]:
        return self.record_in(self.root / output)

    @staticmethod
    def record_in(folder: Path) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            values: dict[str, Any] = json.loads((folder / "fleet.json").read_text())
            return values
        return {}

    def finished(self, output: str = "run", seconds: float = 300) -> dict[str, Any]:
        return wait(
            lambda: self.record(output) if self.record(output).get("finished") else None,
            seconds,
            f"the run\n{self.log('server')[-3000:]}",
        )

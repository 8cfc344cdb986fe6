"""Every input of `tests.support.hostile.inputs`, given to its reader in a process that is watched.

Nothing outside the folder is opened, no program or socket, no exception but ours, 60 seconds and
2 GiB at most.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hostile.inputs import inputs

ROOT = Path(__file__).parents[2]
SECONDS, MEMORY = 60, 2 << 30

WATCH = """
import json, os, resource, signal, sys, traceback, warnings
from pathlib import Path
folder, victim = Path(sys.argv[1]), Path(sys.argv[2])
from fuzzing.targets import TARGETS, read_made_up
from tests.support.hostile.inputs import inputs

warnings.simplefilter("ignore")
made = list(inputs(victim))
for target in TARGETS:  # what is imported late
    try:
        read_made_up(TARGETS[target], b"", folder)
    except Exception:
        pass
found, current = [], ""
ALLOWED = (sys.prefix, sys.base_prefix, str(folder), os.getcwd(), "/proc", "/sys", "/dev/null")

def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.abspath(os.fsdecode(arguments[0]))
        if not path.startswith(ALLOWED) or path == str(victim):
            found.append((current, f"opened {path}"))
    elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn")):
        found.append((current, event))

def late(*_):
    raise TimeoutError

signal.signal(signal.SIGALRM, late)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[4]),) * 2)
sys.addaudithook(watch)
accepted = 0
for name, target, content in made:
    current = name
    for path in folder.iterdir():
        path.unlink()
    signal.alarm(int(sys.argv[3]))
    try:
        accepted += read_made_up(TARGETS[target], content, folder)
    except BaseException:
        found.append((name, traceback.format_exc(limit=-3)))
    signal.alarm(0)
found, noticed = [], found
victim.read_bytes()
os.system("true")
found, noticed = noticed, len(found)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - used
print(json.dumps({"found": found, "number": len(made), "accepted": accepted, "grown": grown,
                  "noticed": noticed}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("own")
    victim = folder.with_name("victim")
    victim.write_bytes(b"1234")
    limits = [str(SECONDS), str(MEMORY)]
    done = subprocess.run(
        [sys.executable, "-c", WATCH, str(folder), str(victim), *limits],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/nowhere", "PYTHONPATH": str(ROOT), "EXPORTLOSS_CACHE": ""},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_is_opened_started_or_broken(result):
    assert result["found"] == []
    assert result["noticed"] == 2  # of what was done at the end to see that it would be
    assert result["grown"] < MEMORY


def test_there_are_many_and_nearly_all_are_refused(result, tmp_path):
    names = [name for name, *_ in inputs(tmp_path)]
    assert len(set(names)) == result["number"] >= 220
    assert result["accepted"] < result["number"] // 5

import os
import subprocess
import sys
from pathlib import Path

import exportloss

CODE = """
import importlib, pkgutil, sys
import exportloss, exportloss.runtime
for module in pkgutil.walk_packages(exportloss.runtime.__path__, "exportloss.runtime."):
    importlib.import_module(module.name)
    print(module.name)
heavy = {name.partition(".")[0] for name in sys.modules} & {"torch", "onnx", "onnxscript"}
assert not heavy, heavy
"""

# A device that trains on images that are ready needs no reader of data sets, nor an engine before
# a session is opened.
UNUSED = """
import sys
import exportloss.runtime
unused = {"exportloss.runtime.data.loader", "onnxruntime", "openvino", "av", "rich"}
assert not unused & sys.modules.keys(), unused & sys.modules.keys()
"""

# The training build of ONNX Runtime imports torch where it is installed, and no session needs it.
ENGINE = """
import sys
from importlib.util import find_spec
from exportloss.runtime.sessions.installation import import_onnxruntime_training
import_onnxruntime_training()
assert "torch" not in sys.modules
assert find_spec("torch") and find_spec("onnxruntime.training"), "an export can still import them"
"""


def test_the_runtime_alone_loads_no_engine_and_no_data_set():
    _run(UNUSED)


def test_the_runtime_imports_neither_torch_nor_onnx():
    names = _run(CODE).split()
    assert {"exportloss.runtime.data.loader", "exportloss.runtime.evaluation.nms"} <= set(names)


def test_the_training_build_imports_no_torch():
    _run(ENGINE)


def _run(code):
    root = Path(exportloss.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

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


def test_the_runtime_imports_neither_torch_nor_onnx():
    root = Path(exportloss.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert {"exportloss.runtime.data.loader", "exportloss.runtime.evaluation.nms"} <= set(names)

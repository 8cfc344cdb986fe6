"""The program on the page about C++ compiles as it stands, without a warning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", "-fsyntax-only")


def test_the_example_compiles(tmp_path):
    page = (ROOT / "docs" / "cpp.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```cpp\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    included, used = block.split("using namespace exportloss;\n")
    source = tmp_path / "example.cpp"
    source.write_text(f"{included}using namespace exportloss;\nint main() {{\n{used}}}\n")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    assert compiler is not None
    include = ROOT / "devices" / "cpp" / "include"
    done = subprocess.run(
        [compiler, *FLAGS, f"-I{include}", source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

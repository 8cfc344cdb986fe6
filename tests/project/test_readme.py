"""The Python block of the README, run as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from exportloss.config import LossConfig
from exportloss.runtime import Manifest

README = Path(__file__).parents[2] / "README.md"


def test_the_python_block_trains_with_the_gains_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    block = block.replace("(320, 320)", "(64, 64)")  # for speed
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 64, 64), dtype=np.uint8)
    rows = np.array([[0, 1, 0.5, 0.5, 0.2, 0.4]], np.float32)
    start = block.index("# Out of torch")
    names: dict[str, object] = {"torch": torch, "rows": rows}
    names["images"] = torch.from_numpy(images).float() / 255
    exec(block[:start], names)
    names["images"] = images
    exec(block[start:], names)
    assert names["result"].loss > 0  # type: ignore[attr-defined]
    expected = LossConfig(label_smoothing=0.1)
    expected = expected.scaled(levels=3, num_classes=3, image_size=(64, 64))
    assert Manifest.read("artifacts").loss == expected

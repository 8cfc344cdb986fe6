"""Data of a fleet of four: each device sees mostly one shape, in a light of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from exportloss.demo.dataset import SHAPE_NAMES, render

DEVICES = len(SHAPE_NAMES)
_MOST = 0.85  # fraction of a device's boxes that are of its own shape


@dataclasses.dataclass(frozen=True)
class Light:
    """A light: pixel * gain + offset, per channel."""

    gain: tuple[float, float, float] = (1, 1, 1)
    offset: float = 0


NEUTRAL = Light()
LIGHTS = (NEUTRAL, Light((0.55, 0.6, 0.8)), Light((1, 0.8, 0.5), 25), Light((0.45,) * 3, 70))


def draw(root: Path, *, size: int, train: int, val: int, factory: int) -> None:
    """Draw `factory` and `device0` to `device3`, and `union`, which lists the devices' images."""
    if (root / "union" / "data.yaml").exists():
        return
    even = [1 / len(SHAPE_NAMES)] * len(SHAPE_NAMES)
    _split(root / "factory", "train", factory, seed=900, size=size, fractions=even)
    _split(root / "factory", "val", val, seed=901, size=size, fractions=even)
    _yaml(root / "factory", "images/train", "images/val")
    for device, light in enumerate(LIGHTS):
        fractions = [(1 - _MOST) / (len(SHAPE_NAMES) - 1)] * len(SHAPE_NAMES)
        fractions[device] = _MOST
        folder = root / f"device{device}"
        for split, count, seed in (("train", train, 1000), ("val", val, 1001)):
            chosen = {"seed": seed + 10 * device, "size": size}
            _split(folder, split, count, **chosen, fractions=fractions, light=light)
        _yaml(folder, "images/train", "images/val")
    listed = {
        split: "[" + ", ".join(f"../device{n}/images/{split}" for n in range(DEVICES)) + "]"
        for split in ("train", "val")
    }
    (root / "union").mkdir(exist_ok=True)
    _yaml(root / "union", listed["train"], listed["val"])


def _split(
    root: Path,
    split: str,
    count: int,
    *,
    seed: int,
    size: int,
    fractions: Sequence[float],
    light: Light = NEUTRAL,
) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
        image, rows = render(rng, size, fractions=fractions)
        lit = np.clip(image * np.array(light.gain) + light.offset, 0, 255).astype(np.uint8)
        Image.fromarray(lit).save(images / f"{index:05d}.png", compress_level=1)
        lines = (f"{int(row[0])} {' '.join(f'{v:.6f}' for v in row[1:])}\n" for row in rows)
        (labels / f"{index:05d}.txt").write_text("".join(lines), encoding="utf-8")


def _yaml(root: Path, train: str, val: str) -> None:
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(SHAPE_NAMES))
    text = f"path: .\ntrain: {train}\nval: {val}\nnames:\n{names}"
    (root / "data.yaml").write_text(text, encoding="utf-8")

"""The demonstration data set: drawn shapes on textured backgrounds, in YOLO layout."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from exportloss.bounds import at_least
from exportloss.errors import DataError
from exportloss.runtime.data.labels import LabelArray
from exportloss.runtime.images.load import ImageArray

__all__ = ["SHAPE_NAMES", "make_shapes", "render"]

SHAPE_NAMES = ("circle", "square", "triangle", "star")

_Floats = npt.NDArray[np.float64]

_OVERSAMPLING = 4  # factor by which shapes are drawn larger, then averaged: smooth edges
_MOST_SHAPES = 6
_RADIUS = 0.08, 0.2  # range for the circle around a shape, as a fraction of the image
_LEAST_VISIBLE = 0.65  # fraction of a shape that others may not cover


def make_shapes(
    folder: str | Path, *, train: int = 64, val: int = 16, size: int = 320, seed: int = 0
) -> Path:
    """Write the data set: `images/` and `labels/` with `train/` and `val/`, and `data.yaml`.

    The same arguments give the same images. A folder that already holds this data set is kept, and
    completed if an earlier run was interrupted.

    Args:
        folder: Missing or empty folder, or one written earlier with the same arguments.
        train: Number of training images, >= 1.
        val: Number of validation images, >= 1.
        size: Side of the square images in pixels, >= 32.
        seed: Seed of everything drawn, >= 0.

    Returns:
        Path of `data.yaml`.

    Raises:
        DataError: the folder has other contents, or cannot be written.
        ConfigError: an argument is out of range.
    """
    at_least(1, train=train, val=val)
    at_least(32, size=size)
    at_least(0, seed=seed)
    root = Path(folder)
    recipe = root / "data.yaml"
    header = f"# Drawn shapes: train {train}, val {val}, size {size}, seed {seed}; recipe 1.\n"
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(SHAPE_NAMES))
    text = f"{header}path: .\ntrain: images/train\nval: images/val\nnames:\n{names}"
    try:
        _claim(root, recipe, text)
        for number, (split, count) in enumerate((("train", train), ("val", val))):
            images, labels = root / "images" / split, root / "labels" / split
            for place in (images, labels):
                if place.is_symlink() or place.parent.is_symlink():
                    raise DataError(f"{place} is or lies in a symbolic link; remove the link first")
                place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                # The label file is written last: if it exists, the image is complete.
                if (label := labels / f"{index:05d}.txt").is_file():
                    continue
                rng = np.random.default_rng(np.random.SeedSequence([seed, number, index]))
                image, rows = render(rng, size)
                file = images / f"{index:05d}.png"
                for path in (file, label):  # a link would be written through
                    path.unlink(missing_ok=True)
                Image.fromarray(image).save(file, compress_level=3)
                lines = (f"{int(row[0])} {' '.join(f'{v:.6f}' for v in row[1:])}\n" for row in rows)
                label.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{root}: the data set cannot be written: {error}") from error
    return recipe


def _claim(root: Path, recipe: Path, text: str) -> None:
    if recipe.is_file() and recipe.read_bytes() == text.encode():
        return
    if root.exists() and (held := sorted(path.name for path in root.iterdir())):
        raise DataError(
            f"{root} holds {', '.join(held[:3])}{', ...' if len(held) > 3 else ''}, expected an "
            "empty folder or the same data set; choose another folder, or remove this one first"
        )
    root.mkdir(parents=True, exist_ok=True)
    recipe.write_bytes(text.encode())


def render(
    rng: np.random.Generator, size: int, *, fractions: Sequence[float] | None = None
) -> tuple[ImageArray, LabelArray]:
    """Draw one image with one to six shapes, which may overlap.

    Args:
        rng: Source of all random choices.
        size: Side of the image in pixels.
        fractions: Probability of each shape, with a sum of 1; None for the same for all.

    Returns:
        The image (size, size, 3) and its labels (n, 5): class, x, y, width, height, the last four
        as fractions of the image. Each box is tight around the whole shape, covered parts included.
    """
    canvas = _background(rng, size)
    labels = []
    covers: list[_Floats] = []  # per shape, 1 where it is visible
    areas: list[float] = []
    wanted = int(rng.integers(1, _MOST_SHAPES + 1))
    for _ in range(4 * wanted):  # a shape that would hide too much of others is drawn anew
        if fractions is None:
            kind = int(rng.integers(len(SHAPE_NAMES)))
        else:
            kind = int(rng.choice(len(SHAPE_NAMES), p=fractions))
        mask = _random_mask(rng, kind, size)
        remaining = [cover * (1 - mask) for cover in covers]
        if any(
            left.sum() < _LEAST_VISIBLE * area for left, area in zip(remaining, areas, strict=True)
        ):
            continue
        covers, areas = [*remaining, mask], [*areas, float(mask.sum())]
        canvas = _paint(rng, canvas, mask)
        labels.append([kind, *_tight_box(mask)])
        if len(labels) == wanted:
            break
    grain = rng.normal(0, 0.012, (size, size, 1))
    image = np.clip((canvas + grain) * 255 + 0.5, 0, 255).astype(np.uint8)
    return image, np.array(labels, dtype=np.float32)


def _random_mask(rng: np.random.Generator, kind: int, size: int) -> _Floats:
    # Uniform in the logarithm: each doubling of the size is equally likely.
    radius = size * float(np.exp(rng.uniform(*np.log(_RADIUS))))
    x, y = rng.uniform(radius + 1, size - radius - 1, 2)
    return _shape_mask(kind, (float(x), float(y)), radius, float(rng.uniform(0, 2 * np.pi)), size)


def _shape_mask(
    kind: int, centre: tuple[float, float], radius: float, angle: float, size: int
) -> _Floats:
    """Return the fraction of each pixel that a shape covers: (size, size), in [0, 1].

    The corners lie on the circle of `radius` around `centre` (x, y), in pixels; the inner corners
    of a star lie at 0.45 of the radius.
    """
    large = Image.new("L", (size * _OVERSAMPLING, size * _OVERSAMPLING))
    corners = {"circle": 180, "square": 4, "triangle": 3, "star": 10}[SHAPE_NAMES[kind]]
    turns = angle + 2 * np.pi * np.arange(corners) / corners
    reach = np.full(corners, radius)
    if SHAPE_NAMES[kind] == "star":
        reach[1::2] *= 0.45
    points = np.array(centre) + reach[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    # Pillow's origin is the middle of the first pixel, ours the corner of the image.
    flat = (points * _OVERSAMPLING - 0.5).ravel().tolist()
    ImageDraw.Draw(large).polygon(flat, fill=255)
    return np.asarray(large.reduce(_OVERSAMPLING), dtype=np.float64) / 255


def _tight_box(mask: _Floats) -> tuple[float, float, float, float]:
    """Return x, y, width, height of the pixels covered by half or more, as fractions."""
    size = len(mask)
    columns = np.flatnonzero((mask >= 0.5).any(axis=0))
    rows = np.flatnonzero((mask >= 0.5).any(axis=1))
    (left, right), (top, bottom) = (columns[0], columns[-1] + 1), (rows[0], rows[-1] + 1)
    return (
        float(left + right) / 2 / size,
        float(top + bottom) / 2 / size,
        float(right - left) / size,
        float(bottom - top) / size,
    )


def _paint(rng: np.random.Generator, canvas: _Floats, mask: _Floats) -> _Floats:
    """Paint a shape on the canvas (size, size, 3): soft shadow, shaded fill, darker rim."""
    size = len(mask)
    hue, saturation, value = rng.random(), rng.uniform(0.55, 0.9), rng.uniform(0.75, 1.0)
    fill = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    offset = max(1, size // 80)
    shadow = np.roll(_blur(mask, size / 70), (offset, offset), axis=(0, 1))
    canvas = canvas * (1 - 0.4 * shadow[..., None])
    inner = np.clip(2 * _blur(mask, size / 200) - 1, 0, 1)  # falls from 1 to 0 at the edge
    light = 1.08 - 0.26 * _ramp(size, rng.uniform(0, 2 * np.pi))
    color = fill * (light * (0.72 + 0.28 * inner))[..., None]
    return canvas + mask[..., None] * (np.clip(color, 0, 1) - canvas)


def _background(rng: np.random.Generator, size: int) -> _Floats:
    """Return a gradient, clouds, stripes or blobs in muted colours: (size, size, 3), in [0, 1]."""
    hue = rng.random()
    first, second = (
        np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
        for shift, saturation, value in (
            (0.0, rng.uniform(0.08, 0.3), rng.uniform(0.75, 0.95)),
            (rng.uniform(-0.2, 0.2), rng.uniform(0.1, 0.4), rng.uniform(0.35, 0.65)),
        )
    )
    textures = (_gradient, _clouds, _stripes, _blobs)
    amount = textures[rng.integers(len(textures))](rng, size)
    amount = 0.85 * amount + 0.15 * _noise(rng, size, (size // 6, size // 3))
    canvas: _Floats = first + amount[..., None] * (second - first)
    return canvas


def _gradient(rng: np.random.Generator, size: int) -> _Floats:
    return _ramp(size, rng.uniform(0, 2 * np.pi))


def _clouds(rng: np.random.Generator, size: int) -> _Floats:
    return _noise(rng, size, (3, 6, 12, 24))


def _stripes(rng: np.random.Generator, size: int) -> _Floats:
    phase = 2 * np.pi * rng.uniform(4, 14) * _ramp(size, rng.uniform(0, 2 * np.pi))
    waviness = rng.uniform(0, 2.5) * _noise(rng, size, (4,))
    stripes: _Floats = 0.5 + 0.5 * np.tanh(2 * np.sin(phase + waviness))
    return stripes


def _blobs(rng: np.random.Generator, size: int) -> _Floats:
    y, x = np.mgrid[:size, :size] / size
    total = np.zeros((size, size))
    for _ in range(rng.integers(8, 20)):
        centre_x, centre_y, spread = rng.random(), rng.random(), rng.uniform(0.03, 0.12)
        total += np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * spread**2))
    return np.tanh(total)


def _ramp(size: int, angle: float) -> _Floats:
    """Return a ramp from 0 to 1 in the direction of `angle`: (size, size)."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    return _normalize(x * np.cos(angle) + y * np.sin(angle))


def _noise(rng: np.random.Generator, size: int, cells: Sequence[int]) -> _Floats:
    """Return smooth noise, (size, size), in [0, 1]; each entry of `cells` adds a weaker octave."""
    total = np.zeros((size, size))
    for octave, count in enumerate(cells):
        coarse = Image.fromarray(rng.random((count, count), dtype=np.float32))
        smooth = coarse.resize((size, size), Image.Resampling.BICUBIC)
        total += np.asarray(smooth, dtype=np.float64) / 2**octave
    return _normalize(total)


def _normalize(values: _Floats) -> _Floats:
    least, most = float(values.min()), float(values.max())
    return (values - least) / (most - least)


def _blur(mask: _Floats, radius: float) -> _Floats:
    image = Image.fromarray((mask * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float64) / 255

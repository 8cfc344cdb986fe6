"""Augmentation by YOLOv5's hyperparameters, in two halves.

`draw_recipe` draws every random number that a picture needs; `make_picture` makes the pixels of a
recipe and `make_labels` its labels. So one can be had without the other, and both depend on the
recipe alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.errors import ConfigError
from exportloss.runtime.geometry import (
    Matrix,
    clip_boxes,
    corners_from_shares,
    is_worth_keeping,
    move_boxes,
    random_matrix,
    shares_from_corners,
    warp,
)
from exportloss.runtime.images import PADDING, Letterbox
from exportloss.runtime.labels import LabelArray
from exportloss.runtime.resize import resize_linear

__all__ = ["Augmentation", "Recipe", "draw_recipe", "make_labels", "make_picture"]

# Where YOLOv5 says its own ranges end, or where a transform ceases to be one.
_MOST = {"degrees": 180.0, "shear": 80.0, "scale": 0.95, "perspective": 0.001}

_HUES = 255  # Pillow's hue of a full turn
_MIXUP_SHARE = 32.0  # both parameters of the beta distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What pictures are put through, under the names of YOLOv5's hyperparameters.

    By default nothing; what YOLOv5 does by default is `TrainingConfig().augmentation`.

    Attributes:
        hsv_h, hsv_s, hsv_v: largest change of hue, saturation and value, as a share, in [0, 1].
        degrees: largest rotation either way, in [0, 180].
        translate: largest translation along each axis, as a share of the size, in [0, 1].
        scale: largest change of size, as a share, in [0, 0.95].
        shear: largest shear along each axis, degrees, in [0, 80].
        perspective: largest perspective along each axis, in [0, 0.001].
        flipud: probability of an upside-down picture, in [0, 1].
        fliplr: probability of a mirrored picture, in [0, 1].
        mosaic: probability of a mosaic of the picture and three others, in [0, 1].
        mixup: probability that a mosaic is blended with another one, in [0, 1].

    Raises:
        ConfigError: a value is out of range.
    """

    hsv_h: float = 0.0
    hsv_s: float = 0.0
    hsv_v: float = 0.0
    degrees: float = 0.0
    translate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            most = _MOST.get(name, 1.0)
            if not 0 <= value <= most:
                raise ConfigError(f"{name} is {value}; expected a number in [0, {most:g}]")

    @property
    def most_pictures(self) -> int:
        """How many pictures can come together in one."""
        return 1 if not self.mosaic else 8 if self.mixup else 4

    @property
    def moves(self) -> bool:
        """Whether pictures are turned, scaled, sheared or moved."""
        return any((self.degrees, self.translate, self.scale, self.shear, self.perspective))


@dataclasses.dataclass(frozen=True)
class _Tile:
    picture: int  # index in the data set
    scaled: tuple[int, int]  # (height, width), pixels
    left: int  # on the scene; may be negative
    top: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Scene:
    """One or four pictures laid out on grey, and the transform to the canvas."""

    tiles: tuple[_Tile, ...]
    size: tuple[int, int]  # (height, width), pixels
    matrix: Matrix | None  # None where nothing moves
    factor: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """How one picture is made.

    Attributes:
        size: (height, width) of the canvas, pixels.
        scenes: one, or two to blend.
        share: of the first of two scenes, in (0, 1).
        gains: factors of hue, saturation and value; None to keep the colours.
        flipud: upside down.
        fliplr: mirrored.
    """

    size: tuple[int, int]
    scenes: tuple[_Scene, ...]
    share: float
    gains: tuple[float, float, float] | None
    flipud: bool
    fliplr: bool


def draw_recipe(
    picture: int,
    sources: Sequence[tuple[int, int]],
    size: tuple[int, int],
    augment: Augmentation,
    rng: np.random.Generator,
    *,
    pool: Sequence[int] | None = None,
) -> Recipe:
    """Draw how a picture is made.

    Args:
        picture: index of the picture, the first in a mosaic.
        sources: (height, width) of every picture of the data set, pixels.
        size: (height, width) of the canvas, pixels.
        augment: what to do.
        rng: nothing else is random.
        pool: indices that the other images of a mosaic are drawn from; None for all.
    """
    pool = range(len(sources)) if pool is None else pool
    if rng.random() < augment.mosaic:
        scenes = [_mosaic(picture, sources, size, augment, rng, pool=pool)]
        if rng.random() < augment.mixup:
            other = pool[int(rng.integers(len(pool)))]
            scenes.append(_mosaic(other, sources, size, augment, rng, pool=pool))
    else:
        # As in YOLOv5 the picture is read a pixel short at times, and then enlarged by it.
        loaded = Letterbox.fit(sources[picture], size, truncate=True).scaled
        box = Letterbox.fit(loaded, size)
        tile = _Tile(picture, box.scaled, box.pad[1], box.pad[0])
        scenes = [_transformed((tile,), size, size, augment, rng)]
    changes = augment.hsv_h, augment.hsv_s, augment.hsv_v
    hue, saturation, value = (1 + rng.uniform(-1, 1, 3) * changes).tolist()
    return Recipe(
        size=size,
        scenes=tuple(scenes),
        share=float(rng.beta(_MIXUP_SHARE, _MIXUP_SHARE)),
        gains=(hue, saturation, value) if any(changes) else None,
        flipud=bool(rng.random() < augment.flipud),
        fliplr=bool(rng.random() < augment.fliplr),
    )


def make_picture(recipe: Recipe, load: Callable[[int], Image.Image]) -> Image.Image:
    """Make the picture of a recipe.

    Args:
        recipe: how.
        load: gives the picture of an index in RGB, scaled as by `load_picture`.

    Returns:
        RGB, of the canvas's size.
    """
    picture, *others = (_draw(scene, recipe.size, load) for scene in recipe.scenes)
    for other in others:
        picture = Image.blend(other, picture, recipe.share)
    if recipe.gains is not None:
        picture = picture.convert("HSV").point(_tables(*recipe.gains)).convert("RGB")
    if recipe.flipud:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if recipe.fliplr:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return picture


def make_labels(recipe: Recipe, labels: Sequence[LabelArray]) -> LabelArray:
    """Make the labels of a recipe: boxes moved, clipped, and those kept that are still of use.

    Args:
        recipe: how.
        labels: (n, 5) rows of every picture of the data set, as from `read_labels`.

    Returns:
        (m, 5) rows, as shares of the canvas.
    """
    rows = np.concatenate([_scene_labels(scene, recipe.size, labels) for scene in recipe.scenes])
    if recipe.flipud:
        rows[:, 2] = 1 - rows[:, 2]
    if recipe.fliplr:
        rows[:, 1] = 1 - rows[:, 1]
    return rows


def _mosaic(
    first: int,
    sources: Sequence[tuple[int, int]],
    size: tuple[int, int],
    augment: Augmentation,
    rng: np.random.Generator,
    *,
    pool: Sequence[int],
) -> _Scene:
    """Lay out four pictures around a random point of a scene twice the canvas's size."""
    others = [pool[index] for index in rng.integers(len(pool), size=3).tolist()]
    pictures = rng.permutation([first, *others]).tolist()
    y, x = (round(side * share) for side, share in zip(size, rng.uniform(0.5, 1.5, 2), strict=True))
    tiles = []
    for picture, (is_right, is_below) in zip(
        pictures, ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True
    ):
        height, width = Letterbox.fit(sources[picture], size, truncate=True).scaled
        left, top = x - width * (1 - is_right), y - height * (1 - is_below)
        tiles.append(_Tile(picture, (height, width), left, top))
    return _transformed(tuple(tiles), (2 * size[0], 2 * size[1]), size, augment, rng)


def _transformed(
    tiles: tuple[_Tile, ...],
    scene: tuple[int, int],
    size: tuple[int, int],
    augment: Augmentation,
    rng: np.random.Generator,
) -> _Scene:
    matrix, factor = random_matrix(
        rng,
        scene,
        size,
        degrees=augment.degrees,
        translate=augment.translate,
        scale=augment.scale,
        shear=augment.shear,
        perspective=augment.perspective,
    )
    is_needed = augment.moves or scene != size
    return _Scene(tiles, scene, matrix if is_needed else None, factor)


def _draw(scene: _Scene, size: tuple[int, int], load: Callable[[int], Image.Image]) -> Image.Image:
    picture = Image.new("RGB", scene.size[::-1], (PADDING,) * 3)
    for tile in scene.tiles:
        pixels = load(tile.picture)
        if pixels.size != tile.scaled[::-1]:
            pixels = Image.fromarray(resize_linear(np.asarray(pixels), tile.scaled))
        picture.paste(pixels, (tile.left, tile.top))
    return picture if scene.matrix is None else warp(picture, scene.matrix, size, PADDING)


def _scene_labels(scene: _Scene, size: tuple[int, int], labels: Sequence[LabelArray]) -> LabelArray:
    classes = np.concatenate([labels[tile.picture][:, 0] for tile in scene.tiles])
    boxes = np.concatenate(
        [
            corners_from_shares(labels[tile.picture], tile.scaled, tile.left, tile.top)
            for tile in scene.tiles
        ]
    )
    boxes = clip_boxes(boxes, scene.size)
    if scene.matrix is not None:
        before, boxes = boxes, clip_boxes(move_boxes(boxes, scene.matrix), size)
        kept = is_worth_keeping(before * scene.factor, boxes)
        classes, boxes = classes[kept], boxes[kept]
    return shares_from_corners(classes, boxes, size)


def _tables(hue: float, saturation: float, value: float) -> list[int]:
    """Return the lookup tables of the three bands, one after the other."""
    levels: npt.NDArray[np.float64] = np.arange(256.0)
    bands = (
        levels * hue % _HUES,
        np.clip(levels * saturation, 0, 255),
        np.clip(levels * value, 0, 255),
    )
    table: list[int] = np.concatenate(bands).astype(np.uint8).tolist()
    return table

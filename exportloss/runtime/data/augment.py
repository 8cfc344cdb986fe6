"""Augmentation by YOLOv5's hyperparameters, in two halves.

`draw_recipe` draws every random number that an image needs; `make_image` makes the pixels of a
recipe and `make_labels` its labels. Each can be made without the other, and depends on the recipe
alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from exportloss.runtime.data.geometry import (
    Matrix,
    clip_boxes,
    corners_from_fractions,
    fractions_from_corners,
    is_worth_keeping,
    move_boxes,
    warp,
)
from exportloss.runtime.data.labels import LabelArray
from exportloss.runtime.data.transforms import COLOURS, TRANSFORMS, AllTransforms, Edit
from exportloss.runtime.images.letterbox import PADDING, Letterbox
from exportloss.runtime.images.resize import resize_linear

__all__ = ["Augmentation", "Recipe", "draw_recipe", "make_image", "make_labels"]

_MIXUP_BETA = 32.0  # both parameters of the beta distribution


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(AllTransforms):
    """Augmentations of images, under the names of YOLOv5's hyperparameters.

    By default there are none; YOLOv5's defaults are `TrainingConfig().augmentation`. The attributes
    are those of the bases, each of which is one augmentation.

    Raises:
        ConfigError: a value is out of range.
    """

    @property
    def most_images(self) -> int:
        """Most images of the data set that are composed into one."""
        return 1 if not self.mosaic else 8 if self.mixup else 4


@dataclasses.dataclass(frozen=True)
class _Tile:
    image: int  # index in the data set
    scaled: tuple[int, int]  # (height, width), pixels
    left: int  # on the scene; may be negative
    top: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Scene:
    """One or four images laid out on grey, and their transform to the canvas."""

    tiles: tuple[_Tile, ...]
    size: tuple[int, int]  # (height, width), pixels
    matrix: Matrix | None  # None if nothing moves
    factor: float  # scale of the matrix


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recipe:
    """All random choices for one image.

    Attributes:
        size: (height, width) of the canvas, pixels.
        scenes: One scene, or two to blend.
        fraction: Weight of the first of two scenes, in (0, 1).
        edits: Changes of the composed image, in order.
    """

    size: tuple[int, int]
    scenes: tuple[_Scene, ...]
    fraction: float
    edits: tuple[Edit, ...]


def draw_recipe(
    image: int,
    sources: Sequence[tuple[int, int]],
    size: tuple[int, int],
    augment: Augmentation,
    rng: np.random.Generator,
    *,
    pool: Sequence[int] | None = None,
) -> Recipe:
    """Draw the recipe of an image.

    Args:
        image: Index of the image, the first in a mosaic.
        sources: (height, width) of every image of the data set, pixels.
        size: (height, width) of the canvas, pixels.
        augment: Augmentations and their strengths.
        rng: Source of all random numbers.
        pool: Indices from which the other images of a mosaic are drawn; None for all.
    """
    pool = range(len(sources)) if pool is None else pool
    if rng.random() < augment.mosaic:
        scenes = [_mosaic(image, sources, size, augment, rng, pool=pool)]
        if rng.random() < augment.mixup:
            other = pool[int(rng.integers(len(pool)))]
            scenes.append(_mosaic(other, sources, size, augment, rng, pool=pool))
    else:
        # As in YOLOv5, truncation may make the loaded image a pixel short; it is then enlarged.
        loaded = Letterbox.fit(sources[image], size, truncate=True).scaled
        box = Letterbox.fit(loaded, size)
        tile = _Tile(image, box.scaled, box.pad[1], box.pad[0])
        scenes = [_transformed((tile,), size, size, augment, rng)]
    edits = [kind.draw(augment, rng) for kind in COLOURS]
    fraction = float(rng.beta(_MIXUP_BETA, _MIXUP_BETA))
    edits += [kind.draw(augment, rng) for kind in TRANSFORMS]
    return Recipe(
        size=size,
        scenes=tuple(scenes),
        fraction=fraction,
        edits=tuple(edit for edit in edits if edit is not None),
    )


def make_image(recipe: Recipe, load: Callable[[int], Image.Image]) -> Image.Image:
    """Make the image of a recipe.

    Args:
        recipe: As from `draw_recipe`.
        load: Function from an index to its image in RGB, scaled as by `load_scaled`.

    Returns:
        RGB image of the canvas's size.
    """
    image, *others = (_draw(scene, recipe.size, load) for scene in recipe.scenes)
    for other in others:
        image = Image.blend(other, image, recipe.fraction)
    for edit in recipe.edits:
        image = edit.edit_image(image)
    return image


def make_labels(recipe: Recipe, labels: Sequence[LabelArray]) -> LabelArray:
    """Make the labels of a recipe: move and clip the boxes, drop those no longer worth learning.

    Args:
        recipe: As from `draw_recipe`.
        labels: (n, 5) rows of every image of the data set, as from `read_labels`.

    Returns:
        (m, 5) rows, as fractions of the canvas.
    """
    rows = np.concatenate([_scene_labels(scene, recipe.size, labels) for scene in recipe.scenes])
    for edit in recipe.edits:
        rows = edit.edit_labels(rows)
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
    """Lay out four images around a random point of a scene twice the canvas's size."""
    others = [pool[index] for index in rng.integers(len(pool), size=3).tolist()]
    images = rng.permutation([first, *others]).tolist()
    y, x = (round(side * place) for side, place in zip(size, rng.uniform(0.5, 1.5, 2), strict=True))
    tiles = []
    for image, (is_right, is_below) in zip(images, ((0, 0), (1, 0), (0, 1), (1, 1)), strict=True):
        height, width = Letterbox.fit(sources[image], size, truncate=True).scaled
        left, top = x - width * (1 - is_right), y - height * (1 - is_below)
        tiles.append(_Tile(image, (height, width), left, top))
    return _transformed(tuple(tiles), (2 * size[0], 2 * size[1]), size, augment, rng)


def _transformed(
    tiles: tuple[_Tile, ...],
    scene: tuple[int, int],
    size: tuple[int, int],
    augment: Augmentation,
    rng: np.random.Generator,
) -> _Scene:
    matrix, factor = augment.draw_matrix(rng, scene, size)
    is_needed = augment.moves or scene != size
    return _Scene(tiles, scene, matrix if is_needed else None, factor)


def _draw(scene: _Scene, size: tuple[int, int], load: Callable[[int], Image.Image]) -> Image.Image:
    image = Image.new("RGB", scene.size[::-1], (PADDING,) * 3)
    for tile in scene.tiles:
        pixels = load(tile.image)
        if pixels.size != tile.scaled[::-1]:
            pixels = Image.fromarray(resize_linear(np.asarray(pixels), tile.scaled))
        image.paste(pixels, (tile.left, tile.top))
    return image if scene.matrix is None else warp(image, scene.matrix, size, PADDING)


def _scene_labels(scene: _Scene, size: tuple[int, int], labels: Sequence[LabelArray]) -> LabelArray:
    classes = np.concatenate([labels[tile.image][:, 0] for tile in scene.tiles])
    boxes = np.concatenate(
        [
            corners_from_fractions(labels[tile.image], tile.scaled, tile.left, tile.top)
            for tile in scene.tiles
        ]
    )
    boxes = clip_boxes(boxes, scene.size)
    if scene.matrix is not None:
        before, boxes = boxes, clip_boxes(move_boxes(boxes, scene.matrix), size)
        kept = is_worth_keeping(before * scene.factor, boxes)
        classes, boxes = classes[kept], boxes[kept]
    return fractions_from_corners(classes, boxes, size)

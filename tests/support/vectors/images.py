"""Letterboxed images, resized images, labels and boxes moved with them, and pixels as floats."""

from __future__ import annotations

import numpy as np
from PIL import Image

from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.images.resize import resize_area, resize_linear

_LABELS = np.array([[0, 0.5, 0.5, 1, 1], [2, 0.25, 0.75, 0.125, 0.3], [1, 0, 1, 0, 0]])
_BOXES = np.array([[3, 4, 20, 25, 0.9, 1], [-5, 0, 500, 17.25, 0.5, 0], [16, 16, 16, 16, 0.25, 2]])


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """Return an image of noise, in which every wrong rounding shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def slope(height: int, width: int) -> np.ndarray:
    """Return an image that brightens evenly, with different colours along each side."""
    down, across = np.arange(height)[:, None], np.arange(width)
    planes = np.broadcast_arrays(down * 7, across * 5, down * 3 + across * 2)
    return (np.stack(planes, axis=2) % 256).astype(np.uint8)


def _grey(height: int, width: int) -> np.ndarray:
    return np.repeat(noise(height, width, seed=3)[:, :, :1], 3, axis=2)


_LETTERBOXED: tuple[tuple[str, np.ndarray, tuple[int, int], dict[str, object]], ...] = (
    ("same size", noise(32, 32), (32, 32), {}),
    ("smaller", noise(57, 83), (32, 32), {}),
    ("much smaller", noise(101, 67), (32, 32), {}),
    ("half", noise(64, 64), (32, 32), {}),
    ("larger", noise(11, 23), (32, 64), {}),
    ("larger, odd padding", noise(10, 13), (32, 32), {}),
    ("not enlarged", noise(11, 20), (32, 64), {"scale_up": False}),
    ("smaller, though not to be enlarged", noise(41, 40), (32, 32), {"scale_up": False}),
    ("half a pixel rounds to even, down", noise(10, 64), (32, 32 + 16), {}),
    ("half a pixel rounds to even, up", noise(22, 64), (32, 48), {}),
    ("one pixel", noise(1, 1), (32, 32), {}),
    ("one row", noise(1, 90), (32, 32), {}),
    ("one column", noise(90, 1), (32, 32), {}),
    ("grey", _grey(40, 50), (32, 32), {}),
    ("slope, smaller", slope(60, 90), (64, 64), {}),
    ("slope, larger", slope(20, 30), (64, 64), {}),
    ("wide canvas", noise(40, 40), (32, 96), {}),
    ("other padding", noise(20, 40), (32, 32), {"color": 0}),
)
_TRAINED: tuple[tuple[str, np.ndarray, tuple[int, int]], ...] = (
    ("same size", noise(32, 32), (32, 32)),
    ("smaller", noise(57, 83), (32, 32)),
    ("a third", noise(96, 96), (32, 32)),
    ("sides are truncated", noise(31, 67), (32, 32)),
    ("larger", noise(11, 23), (32, 64)),
    ("one row", noise(1, 90), (32, 32)),
    ("slope, smaller", slope(60, 90), (64, 64)),
)


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []

    def add(what: str, name: str, image: np.ndarray, result: np.ndarray, **more: object) -> None:
        number = len(cases)
        paths = {key: f"images/{number:03}.{key}.rgb" for key in ("image", "result")}
        files[paths["image"]], files[paths["result"]] = image.tobytes(), result.tobytes()
        sizes = {"source": image.shape[:2], "size": result.shape[:2]}
        cases.append({"what": what, "name": name, **sizes, **paths, **more})

    for name, image, size, options in _LETTERBOXED:
        canvas, box = letterbox(image, size, **options)
        add("detection", name, image, canvas, **options, **_place(box))
    for linear, what in ((True, "training"), (False, "validation")):
        for name, image, size in _TRAINED:
            box = Letterbox.fit(image.shape[:2], size, truncate=True)
            shrinks = box.scaled[0] <= image.shape[0] and box.scaled[1] <= image.shape[1]
            resize = resize_area if shrinks and not linear else resize_linear
            canvas = box.place(Image.fromarray(resize(image, box.scaled)))
            add(what, name, image, np.array(canvas), **_place(box))
    scale = np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255)
    cases.append({"what": "pixels", "name": "0 to 255", "hex": scale.astype("<f4").tobytes().hex()})
    image = noise(2, 3)
    cases.append(
        {
            "what": "planes",
            "name": "rows of pixels to planes",
            "source": image.shape[:2],
            "hex": image.tobytes().hex(),
            "planes": np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes().hex(),
        }
    )
    return cases


def _place(box: Letterbox) -> dict[str, object]:
    return {
        "scaled": box.scaled,
        "pad": box.pad,
        "ratio": box.ratio,
        "labels": _LABELS,
        "mapped_labels": box.map_labels(_LABELS),
        "boxes": _BOXES,
        "unmapped_boxes": box.unmap_boxes(_BOXES),
    }

"""The data sets of tests in COCO's format as well."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from exportloss.runtime.data.labels import read_labels

GAP = 7  # between the ids of two categories


def category_id(label: int) -> int:
    """Id of a class in the files that are written here."""
    return 3 + GAP * label


def make_coco(
    images: Sequence[Path], folder: Path, names: Sequence[str], *, first_id: int = 100
) -> dict[str, Any]:
    """Describe images and their YOLO label files, which become pixels, as COCO does.

    Categories and images come last first: nothing goes by their order. Ids grow with the paths, so
    that pycocotools takes detections of equal confidence in our order.
    """
    entries, annotations = [], []
    for number, image in enumerate(images):
        with Image.open(image) as file:
            width, height = file.size
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        name = str(image.relative_to(folder))
        size = {"width": width, "height": height}
        entries.append({"id": first_id + 3 * number, "file_name": name, **size})
        for kind, x, y, w, h in read_labels(label, len(names)).tolist():
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": 5000 - len(annotations),
                    "image_id": first_id + 3 * number,
                    "category_id": category_id(int(kind)),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "segmentation": [],
                }
            )
    categories = [{"id": category_id(i), "name": name} for i, name in enumerate(names)]
    return {
        "info": {"year": 2017},
        "annotations": annotations,
        "categories": categories[::-1],
        "images": entries[::-1],
    }


def snap_labels(labels: Path, side: int) -> None:
    """Move the boxes of YOLO label files to whole pixels of square images, side a power of two."""
    for path in labels.rglob("*.txt"):
        lines = []
        for kind, *box in read_labels(path, 99).tolist():
            x, y, w, h = (max(round(value * side / 2), 1) * 2 / side for value in box)
            x, y = (max(c, s / 2) for c, s in ((x, w), (y, h)))
            x, y = (min(c, 1 - s / 2) for c, s in ((x, w), (y, h)))
            lines.append(f"{int(kind)} {x!r} {y!r} {w!r} {h!r}\n")
        path.write_text("".join(lines))


def write_json(path: Path, value: Mapping[str, Any]) -> Path:
    """Write a value as JSON, and return the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path

"""`exportloss detect`: find objects in pictures."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from exportloss.bounds import at_least
from exportloss.cli.arguments import image_size
from exportloss.cli.data_report import print_skipped, print_undrawable
from exportloss.cli.detectors import add_detector_arguments, add_folder_arguments, open_chosen
from exportloss.cli.outputs import check_run_folder
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError, DataError, excerpt, printable
from exportloss.runtime.dataset import label_path, read_data_yaml
from exportloss.runtime.detection_files import crop, write_json, write_labels, write_picture
from exportloss.runtime.draw import class_name, draw_boxes
from exportloss.runtime.files import fit_name
from exportloss.runtime.images import ImageArray, load_image
from exportloss.runtime.inference import Boxes
from exportloss.runtime.nms import check_classes, check_thresholds
from exportloss.runtime.run_folder import RunFolder
from exportloss.runtime.sources import find_pictures, unique_stems

__all__ = ["add_parser", "run"]

_SOME_LEFT_OUT = 1


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "detect",
        help="find objects in pictures",
        description="Find objects in pictures; write them annotated, as label files, cut out or as "
        "JSON. Needs neither torch nor onnx. A picture that cannot be decoded is named and passed "
        "over; the exit status is then 1.",
        epilog="example: exportloss detect --weights runs/train/exp --source 'photos/*.jpg'",
    )
    add = parser.add_argument
    add(
        "--source",
        required=True,
        metavar="PATH",
        help="a picture, a folder, a pattern such as 'photos/**/*.jpg', or a .txt of picture paths",
    )
    add("--data", metavar="YAML", help="class names of a file that has none")
    add_detector_arguments(parser, conf_thres=0.25, iou_thres=0.45, max_det=1000)
    add("--classes", type=int, nargs="+", metavar="N", help="only these class numbers")
    add("--agnostic-nms", action="store_true", help="boxes of different classes may not overlap")
    add("--save-txt", action="store_true", help="write a YOLO label file a picture, into labels/")
    add("--save-conf", action="store_true", help="with the confidence at the end of its lines")
    add("--save-crop", action="store_true", help="cut every object out, into crops/CLASS/")
    add("--save-json", action="store_true", help="write detections.json: an entry a picture")
    add("--nosave", action="store_true", help="write no annotated pictures")
    add("--line-thickness", type=int, metavar="N", help="of boxes, pixels (default: by picture)")
    add("--hide-labels", action="store_true", help="draw boxes without class and confidence")
    add("--hide-conf", action="store_true", help="draw boxes without confidence")
    add_folder_arguments(parser, "runs/detect")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Detect; print a line a picture; return 0, or 1 where a picture could not be decoded."""
    if options.line_thickness is not None:
        at_least(1, **{"--line-thickness": options.line_thickness})
    thresholds = {name: getattr(options, name) for name in ("conf_thres", "iou_thres", "max_det")}
    check_thresholds(**thresholds)
    if options.classes is not None and (least := min(options.classes)) < 0:
        raise ConfigError(f"--classes has {least}; expected class numbers from 0 on")
    skipped: list[Path] = []
    pictures = find_pictures(options.source, onskip=skipped.append)
    print_skipped(skipped)
    opened = open_chosen(options)
    detector = opened.detector
    if options.data is not None and not detector.names:
        detector = dataclasses.replace(detector, names=read_data_yaml(options.data).names)
    if detector.names:  # else the first image tells how many there are
        check_classes(options.classes, len(detector.names))
    source = Path(options.source)
    # They are not read here, but somebody has drawn them.
    labels = filter(os.path.isfile, map(label_path, pictures))
    check_run_folder(
        options,
        [*pictures, *labels, opened.path, *([source] if source.is_file() else [])],
        folders=["labels"] if options.save_txt else [],
        trees=["crops"] if options.save_crop else [],
    )
    size = detector.check_size(image_size(options.imgsz, stride=detector.stride))
    writer = None
    if not options.nosave:
        print_undrawable(detector.names)
    if not options.nosave or options.save_txt or options.save_crop or options.save_json:
        folder = RunFolder.create(options.project, options.name, exist_ok=options.exist_ok)
        writer = _Writer(folder, detector.names, options)
    failed = 0
    for number, (path, stem) in enumerate(zip(pictures, unique_stems(pictures), strict=True), 1):
        title = f"image {number}/{len(pictures)} {printable(path)}:"
        try:
            image = load_image(path)
        except DataError as error:
            say(f"{title} {error}", error=True)
            failed += 1
            continue
        started = time.perf_counter()
        (boxes,) = detector.detect(
            [image],
            size=size,
            agnostic=options.agnostic_nms,
            classes=options.classes,
            **thresholds,
        )
        milliseconds = 1000 * (time.perf_counter() - started)
        height, width = image.shape[:2]
        found = _counts(boxes, detector.names)
        say(f"{title} {height}x{width} {found}, {milliseconds:.1f} ms")
        if writer is not None:
            writer.write(path, stem, image, boxes)
    if writer is not None:
        writer.finish()
        say(f"written to {writer.run.path}")
    if failed:
        say(f"{failed} of {len(pictures)} pictures could not be decoded", error=True)
    return _SOME_LEFT_OUT if failed else 0


@dataclasses.dataclass
class _Writer:
    """Writes what was asked for, picture by picture."""

    run: RunFolder
    names: tuple[str, ...]
    options: argparse.Namespace
    entries: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def write(self, path: Path, stem: str, image: ImageArray, boxes: Boxes) -> None:
        options = self.options
        height, width = image.shape[:2]
        if not options.nosave:
            drawn = draw_boxes(
                image,
                boxes,
                self.names,
                show_names=not options.hide_labels,
                show_confidence=not options.hide_conf,
                line_width=options.line_thickness,
            )
            write_picture(self.run.path / f"{stem}{path.suffix}", drawn)
        if options.save_txt and len(boxes):
            write_labels(
                self.run.subfolder("labels") / f"{stem}.txt",
                boxes,
                (height, width),
                with_confidence=options.save_conf,
            )
        if options.save_crop:
            for number, box in enumerate(boxes, 1):
                name = re.sub(r"[^\w -]", "_", class_name(self.names, int(box[5])))
                ending = f"-{number}.jpg"
                folder = self.run.subfolder("crops", fit_name(name, ""))
                target = folder / f"{fit_name(stem, ending)}{ending}"
                write_picture(target, crop(image, box))
        if options.save_json:
            self.entries.append(
                {
                    "image": str(path),
                    "height": height,
                    "width": width,
                    "detections": [self._entry(box) for box in boxes.tolist()],
                }
            )

    def finish(self) -> None:
        if self.options.save_json:
            write_json(self.run.path / "detections.json", self.entries)

    def _entry(self, row: list[float]) -> dict[str, Any]:
        *corners, confidence, label = row
        return {
            "class": int(label),
            "name": class_name(self.names, int(label)),
            "confidence": round(confidence, 5),
            "box": [round(value, 2) for value in corners],
        }


def _counts(boxes: Boxes, names: tuple[str, ...]) -> str:
    """Return such as `2 cats, 1 dog`."""
    counts = Counter(boxes[:, 5].astype(int).tolist())
    parts = [
        f"{count} {excerpt(printable(class_name(names, label)))}{'s' if count > 1 else ''}"
        for label, count in sorted(counts.items())
    ]
    return ", ".join(parts) or "(no detections)"

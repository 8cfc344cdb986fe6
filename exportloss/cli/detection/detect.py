"""`exportloss detect`: find objects in images, videos and the frames of a camera."""

from __future__ import annotations

import argparse
import contextlib
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
from exportloss.cli.defaults import default_of
from exportloss.cli.detection.detectors import (
    add_detector_arguments,
    add_folder_arguments,
    open_detector,
)
from exportloss.cli.detection.stopping import Stopping
from exportloss.cli.detection.writer import DetectionWriter
from exportloss.cli.outputs import check_run_folder
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError, DataError, excerpt, printable
from exportloss.runtime.data.dataset import label_path, read_data_yaml
from exportloss.runtime.data.sources import find_images, is_video, unique_stems
from exportloss.runtime.drawing.draw import class_name
from exportloss.runtime.evaluation.inference import Boxes, Detector
from exportloss.runtime.evaluation.nms import check_classes, check_thresholds
from exportloss.runtime.images.load import ImageArray, load_image
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.video.cameras import Camera, open_camera
from exportloss.runtime.video.frames import import_av
from exportloss.runtime.video.video import Video, open_video

__all__ = ["add_parser", "run"]

_SOME_SKIPPED = 1
_MAX_DET = 1000  # as in YOLOv5's detect.py
_CAMERA = re.compile(r"[0-9]{1,6}")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "detect",
        help="find objects in images, videos and the frames of a camera",
        description="Find objects in images, videos (with the extra `video`) and the frames of a "
        "camera; write them annotated, as label files, cut out or as JSON. Needs neither torch nor "
        "onnx. An image that cannot be decoded is named and skipped, and a damaged video is read "
        "as far as it can be; the exit status is then 1.",
        epilog="example: exportloss detect --weights runs/train/exp --source 'photos/*.jpg'",
    )
    add = parser.add_argument
    add(
        "--source",
        required=True,
        metavar="PATH|N",
        help="an image or video, a folder, a pattern such as 'photos/**/*.jpg', a .txt of paths, "
        "or the number of a camera, which runs until Ctrl-C",
    )
    add("--data", metavar="YAML", help="data set with the class names, for a file that has none")
    add_detector_arguments(
        parser,
        conf_thres=default_of(Detector.detect, "conf_thres"),
        iou_thres=default_of(Detector.detect, "iou_thres"),
        max_det=_MAX_DET,
    )
    add("--classes", type=int, nargs="+", metavar="N", help="only these class numbers")
    add("--agnostic-nms", action="store_true", help="boxes of different classes may not overlap")
    add(
        "--save-txt",
        action="store_true",
        help="write a YOLO label file per image or frame, in labels/",
    )
    add(
        "--save-conf",
        action="store_true",
        help="add the confidence at the end of each line of label files",
    )
    add("--save-crop", action="store_true", help="write a crop of every object, into crops/CLASS/")
    add(
        "--save-json",
        action="store_true",
        help="write detections.json: an entry per image or frame",
    )
    add("--nosave", action="store_true", help="write no annotated images and videos")
    add(
        "--vid-stride",
        type=int,
        default=default_of(open_video, "stride"),
        metavar="N",
        help="detect in every Nth frame of videos and cameras (default %(default)s)",
    )
    add(
        "--line-thickness",
        type=int,
        metavar="N",
        help="line width of boxes in pixels (default: by image size)",
    )
    add("--hide-labels", action="store_true", help="draw boxes without class and confidence")
    add("--hide-conf", action="store_true", help="draw boxes without confidence")
    add_folder_arguments(parser, "runs/detect")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Detect; print a line per image or frame; return 0, or 1 if not all could be decoded."""
    given = {"--line-thickness": options.line_thickness, "--vid-stride": options.vid_stride}
    at_least(1, **{flag: value for flag, value in given.items() if value is not None})
    thresholds = {name: getattr(options, name) for name in ("conf_thres", "iou_thres", "max_det")}
    check_thresholds(**thresholds)
    if options.classes is not None and (least := min(options.classes)) < 0:
        raise ConfigError(f"--classes has {least}; expected class numbers from 0 on")
    camera = int(options.source) if _CAMERA.fullmatch(options.source) else None
    skipped: list[Path] = []
    images = (
        ()
        if camera is not None
        else find_images(options.source, videos=True, onskip=skipped.append)
    )
    print_skipped(skipped)
    if camera is not None or any(map(is_video, images)):
        import_av()
    opened = open_detector(
        options.weights,
        device=options.device,
        threads=options.threads,
        self_check=options.self_check,
        time_limit=options.time_limit,
    )
    detector = opened.detector
    if options.data is not None and not detector.names:
        detector = dataclasses.replace(detector, names=read_data_yaml(options.data).names)
    if detector.names:  # otherwise the first image determines their number
        check_classes(options.classes, len(detector.names))
    source = Path(options.source)
    # Labels are not read here, but must not be replaced.
    labels = filter(os.path.isfile, map(label_path, images))
    is_list = camera is None and source.is_file()
    check_run_folder(
        Path(options.project, options.name),
        [*images, *labels, opened.path, *([source] if is_list else [])],
        exist_ok=options.exist_ok,
        folders=["labels"] if options.save_txt else [],
        trees=["crops"] if options.save_crop else [],
    )
    job = _Job(
        options=options,
        detector=detector,
        size=detector.check_size(image_size(options.imgsz, stride=detector.stride)),
        thresholds=thresholds,
    )
    if not options.nosave:
        print_undrawable(detector.names)
    with contextlib.ExitStack() as stack:
        alone: Video | Camera | None = None  # opened before a folder is made
        if camera is not None:
            alone = stack.enter_context(open_camera(camera, stride=options.vid_stride))
        elif len(images) == 1 and is_video(images[0]):
            alone = stack.enter_context(open_video(images[0], stride=options.vid_stride))
        if not options.nosave or options.save_txt or options.save_crop or options.save_json:
            folder = RunFolder.create(options.project, options.name, exist_ok=options.exist_ok)
            job.writer = DetectionWriter(folder, detector.names, options)
            stack.callback(job.writer.abandon)
        if isinstance(alone, Camera):
            with Stopping() as stopping:
                failed = int(not job.camera(alone, stopping))
                job.finish()
        else:
            failed = _detect_all(job, images, alone)
            job.finish()
    if failed:
        kind, ending = "images", ""
        if camera is not None or any(map(is_video, images)):
            kind, ending = "sources", ", or not to their end"
        total = max(len(images), 1)
        say(f"{failed} of {total} {kind} could not be decoded{ending}", error=True)
    return _SOME_SKIPPED if failed else 0


def _detect_all(job: _Job, images: tuple[Path, ...], alone: Video | None) -> int:
    """Detect in every image and video; return how many could not be decoded to their end.

    Raises:
        DataError: The only source is a video, `alone`, and no frame of it can be decoded.
    """
    failed = 0
    for number, (path, stem) in enumerate(zip(images, unique_stems(images), strict=True), 1):
        place = f"{number}/{len(images)}"
        try:
            if alone is not None:
                complete = job.video(alone, stem, place)
            elif is_video(path):
                with open_video(path, stride=job.options.vid_stride) as video:
                    complete = job.video(video, stem, place)
            else:
                job.image(path, stem, place)
                complete = True
        except DataError as error:
            if alone is not None:
                raise
            kind = "video" if is_video(path) else "image"
            say(f"{kind} {place} {printable(path)}: {error}", error=True)
            complete = False
        failed += not complete
    return failed


@dataclasses.dataclass(kw_only=True)
class _Job:
    """Detection in each image and frame, with its settings and files."""

    options: argparse.Namespace
    detector: Detector
    size: tuple[int, int]
    thresholds: dict[str, Any]
    writer: DetectionWriter | None = None

    def image(self, path: Path, stem: str, place: str) -> None:
        """Detect in an image file.

        Raises:
            DataError: It cannot be decoded.
        """
        image = load_image(path)
        boxes = self._detect(image, f"image {place} {printable(path)}:")
        if self.writer is not None:
            self.writer.image(path, stem, image, boxes)

    def video(self, video: Video, stem: str, place: str) -> bool:
        """Detect in a video; return whether all of it could be decoded.

        Raises:
            DataError: No frame can be decoded.
        """
        path, frames = printable(video.path), 0
        self._begin(video, stem)
        try:
            for frame in video.frames():
                frames += 1
                title = f"video {place} ({frame.number}/{video.count or '?'}) {path}:"
                boxes = self._detect(frame.image, title)
                if self.writer is not None:
                    self.writer.frame(str(video.path), stem, frame, boxes)
            damage = video.damage
        except DataError as error:
            if not frames:
                self._end()
                raise
            damage = str(error)
        self._end()
        if damage is not None:
            kept = f"what was found in {frames} frames is kept"
            say(f"video {place} {path}: {damage}; {kept}", error=True)
        return damage is None

    def camera(self, camera: Camera, stopping: Stopping) -> bool:
        """Detect in the frames of a camera until stopped; return whether it worked until then."""
        name = f"camera {camera.number}"
        self._begin(camera, str(camera.number))
        for frame in camera.frames():
            boxes = self._detect(frame.image, f"{name} ({frame.number}):")
            if self.writer is not None:
                self.writer.frame(name, str(camera.number), frame, boxes)
            if stopping.asked:
                break
        self._end()
        if camera.damage is not None:
            say(f"{name}: {camera.damage}", error=True)
        return camera.damage is None

    def finish(self) -> None:
        """Complete all files, and print their folder."""
        if self.writer is not None:
            self.writer.finish()
            say(f"written to {self.writer.run.path}")

    def _begin(self, source: Video | Camera, stem: str) -> None:
        if self.writer is not None:
            self.writer.begin_video(stem, rate=source.rate, time_base=source.time_base)

    def _end(self) -> None:
        if self.writer is not None:
            self.writer.end_video()

    def _detect(self, image: ImageArray, title: str) -> Boxes:
        started = time.perf_counter()
        (boxes,) = self.detector.detect(
            [image],
            size=self.size,
            agnostic=self.options.agnostic_nms,
            classes=self.options.classes,
            **self.thresholds,
        )
        milliseconds = 1000 * (time.perf_counter() - started)
        height, width = image.shape[:2]
        found = _counts(boxes, self.detector.names)
        say(f"{title} {height}x{width} {found}, {milliseconds:.1f} ms")
        return boxes


def _counts(boxes: Boxes, names: tuple[str, ...]) -> str:
    """Return the counts by class, such as `2 cats, 1 dog`."""
    counts = Counter(boxes[:, 5].astype(int).tolist())
    parts = [
        f"{count} {excerpt(printable(class_name(names, label)))}{'s' if count > 1 else ''}"
        for label, count in sorted(counts.items())
    ]
    return ", ".join(parts) or "(no detections)"

"""Files that `exportloss detect` writes per image and per frame."""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

from exportloss.runtime.drawing.draw import class_name, draw_boxes
from exportloss.runtime.evaluation.detection_files import (
    JsonList,
    crop,
    write_image,
    write_labels,
)
from exportloss.runtime.evaluation.inference import Boxes
from exportloss.runtime.images.load import ImageArray
from exportloss.runtime.storage.names import fit_name
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.video.frames import Frame
from exportloss.runtime.video.writer import VideoWriter

__all__ = ["DetectionWriter"]

_LONGEST_ENDING = "_1000000000.webm"  # longest suffix of the names of a video's frames


class DetectionWriter:
    """Writes the requested files; those over all sources are complete after `finish`, or absent.

    Args:
        run: Folder to write into.
        names: Class names.
        options: Options of the command.

    Attributes:
        run: Folder that is written into.
    """

    def __init__(self, run: RunFolder, names: tuple[str, ...], options: argparse.Namespace) -> None:
        self.run = run
        self._names = names
        self._options = options
        self._entries = JsonList(run.path / "detections.json") if options.save_json else None
        self._video: VideoWriter | None = None

    def image(self, path: Path, stem: str, image: ImageArray, boxes: Boxes) -> None:
        """Write the detections of an image."""
        if not self._options.nosave:
            write_image(self.run.path / f"{stem}{path.suffix}", self._drawn(image, boxes))
        self._details(stem, image, boxes, {"image": str(path)})

    def begin_video(self, stem: str, *, rate: Fraction, time_base: Fraction) -> None:
        """Begin the annotated video of a source; arguments as for `VideoWriter`."""
        if not self._options.nosave:
            path = self.run.path / f"{fit_name(stem, '.mp4')}.mp4"
            self._video = VideoWriter(path, rate=rate, time_base=time_base)

    def frame(self, source: str, stem: str, frame: Frame, boxes: Boxes) -> None:
        """Write the detections of a frame of a video or camera."""
        if self._video is not None:
            self._video.write(self._drawn(frame.image, boxes), frame.time)
        about = {"image": source, "frame": frame.number, "seconds": round(float(frame.time), 3)}
        stem = f"{fit_name(stem, _LONGEST_ENDING)}_{frame.number}"
        self._details(stem, frame.image, boxes, about)

    def end_video(self) -> None:
        """Complete the annotated video, if any; without frames no file is written."""
        video, self._video = self._video, None
        if video is not None:
            video.finish()

    def finish(self) -> None:
        """Complete the files over all sources."""
        if self._entries is not None:
            self._entries.finish()

    def abandon(self) -> None:
        """Remove incomplete files; do nothing after `finish`."""
        if self._video is not None:
            self._video.abandon()
        if self._entries is not None:
            self._entries.abandon()

    def _drawn(self, image: ImageArray, boxes: Boxes) -> ImageArray:
        return draw_boxes(
            image,
            boxes,
            self._names,
            show_names=not self._options.hide_labels,
            show_confidence=not self._options.hide_conf,
            line_width=self._options.line_thickness,
        )

    def _details(self, stem: str, image: ImageArray, boxes: Boxes, about: dict[str, Any]) -> None:
        """Write labels, crops and the entry of an image or frame."""
        options = self._options
        height, width = image.shape[:2]
        if options.save_txt and len(boxes):
            write_labels(
                self.run.subfolder("labels") / f"{stem}.txt",
                boxes,
                (height, width),
                with_confidence=options.save_conf,
            )
        if options.save_crop:
            for number, box in enumerate(boxes, 1):
                name = re.sub(r"[^\w -]", "_", class_name(self._names, int(box[5])))
                ending = f"-{number}.jpg"
                folder = self.run.subfolder("crops", fit_name(name, ""))
                write_image(folder / f"{fit_name(stem, ending)}{ending}", crop(image, box))
        if self._entries is not None:
            found = [self._entry(box) for box in boxes.tolist()]
            size = {"height": height, "width": width}
            self._entries.append({**about, **size, "detections": found})

    def _entry(self, row: list[float]) -> dict[str, Any]:
        *corners, confidence, label = row
        return {
            "class": int(label),
            "name": class_name(self._names, int(label)),
            "confidence": round(confidence, 5),
            "box": [round(value, 2) for value in corners],
        }

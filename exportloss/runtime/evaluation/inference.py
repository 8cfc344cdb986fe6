"""A trained detector: images in, boxes out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.artifact.limits import check_threads
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.evaluation.contained import TIME_LIMIT, ContainedDetector
from exportloss.runtime.evaluation.detector_file import INPUT_TYPES, PredictRows, read_detector
from exportloss.runtime.evaluation.nms import check_predictions, non_max_suppression
from exportloss.runtime.images.letterbox import letterbox
from exportloss.runtime.images.resize import ImageArray
from exportloss.runtime.sessions.checks.self_check import check_outputs
from exportloss.runtime.sessions.devices import Device, describe_engine, import_engine
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["Detector"]

Boxes = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector for inference, from an ONNX file or a training session.

    Attributes:
        predict: Function from (B, 3, H, W) uint8 RGB images to decoded rows (B, N, 5 + nc), as in
            `Evaluation`.
        names: Class names; empty if the file does not state them.
        stride: Divisor of the height and width of images, >= 1.
        batch_size: Number of images that `predict` takes at once; None for any number.
        image_size: (height, width) that `predict` takes, pixels; None for any.
    """

    predict: PredictRows
    names: tuple[str, ...] = ()
    stride: int = 32
    batch_size: int | None = None
    image_size: tuple[int, int] | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        threads: int | None = None,
        self_check: bool = True,
        contained: bool = False,
        time_limit: float = TIME_LIMIT,
    ) -> Detector:
        """Open an inference file of this package or of YOLOv5's `export.py`.

        Args:
            path: ONNX file with one input (B, 3, H, W) in [0, 1], float32 or float16, and a first
                output (B, N, 5 + nc); metadata `names` and `stride` are optional.
            device: Device to run on, such as `cpu`, `cuda`, `openvino` or `webgpu`, as read by
                `Device.parse`. With CUDA, dynamic shapes are computed on the CPU.
            threads: Threads of the engine within an operator; None for every core.
            self_check: True to compare the rows for an image of noise with those of ONNX Runtime's
                CPU provider first, on any device but the CPU.
            contained: True to run an untrusted file in a process of its own, with limits on time
                and, on the CPU, memory. `predict` then costs a copy of the images and rows.
            time_limit: Most seconds for opening a contained file, and per image.

        Raises:
            ArtifactError: the file is missing, damaged, or no such detector. `predict` raises it if
                the file cannot be run.
            ConfigError: the device is unknown, `threads` is out of range, or `time_limit` is not
                above 0.
            DeviceError: the device's numbers differ from the CPU's.
            InstallationError: onnxruntime is missing, or does not support the device.
        """
        if threads is not None:
            check_threads("threads", threads)
        content = read_onnx(Path(path))  # checked: complete, and refers to no other file
        if not contained:
            return cls.from_content(
                content, str(path), device=device, threads=threads, self_check=self_check
            )
        if not time_limit > 0:
            raise ConfigError(f"time_limit is {time_limit}; expected seconds above 0")
        child = ContainedDetector(
            content,
            str(path),
            device=device,
            threads=threads,
            self_check=self_check,
            seconds=time_limit,
        )
        return cls(predict=child.predict, **vars(child.description))

    @classmethod
    def from_content(
        cls, content: bytes, path: str, *, device: str, threads: int | None, self_check: bool
    ) -> Detector:
        """Open the bytes of an inference file, as `open` does; `path` is for messages."""
        where = Device.parse(device)
        engine = import_engine(where)
        session = open_graph(
            engine, Path(path), where, threads=threads or 0, strict=False, content=content
        )
        try:
            predict, description = read_detector(session, path)
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path} has names that are no text: {error}") from error
        detector = cls(predict=predict, **vars(description))
        if self_check and where.kind != "cpu":
            said = describe_engine(engine, where)
            _check(Path(path), content, session, detector, device=where, engine=said)
        return detector

    @classmethod
    def from_session(cls, session: TrainSession) -> Detector:
        """Use the detector of a session, with its running statistics and its state at each call."""
        manifest = session.manifest
        nothing = np.zeros((0, 6), np.float32)
        return cls(
            predict=lambda images: session.evaluate(images, nothing).predictions,
            names=manifest.names,
            stride=int(max(manifest.strides)),
            batch_size=manifest.batch_size,
            image_size=manifest.image_size,
        )

    def check_size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the image size to use: `size`, the detector's, or (640, 640).

        Raises:
            ConfigError: the detector takes only another size, or `size` does not fit the stride.
        """
        if self.image_size is not None:
            if size not in (None, self.image_size):
                raise ConfigError(
                    f"the image size is {size}; the detector takes {self.image_size} only: use "
                    "that size, or export the detector for another"
                )
            return self.image_size
        size = size or (640, 640)
        if min(size) < 1 or any(side % self.stride for side in size):
            near = tuple(max(math.ceil(side / self.stride), 1) * self.stride for side in size)
            raise ConfigError(
                f"the image size is {size}; expected multiples of the stride, {self.stride}, such "
                f"as {near}"
            )
        return size

    def check_batch(self, batch_size: int | None, *, default: int) -> int:
        """Return the number of images to take at once: `batch_size`, the detector's, or `default`.

        Raises:
            ConfigError: `batch_size` is below 1, or the detector takes only another number.
        """
        if batch_size is not None:
            at_least(1, batch_size=batch_size)
        if batch_size not in (None, self.batch_size) and self.batch_size is not None:
            raise ConfigError(
                f"the batch size is {batch_size}; the detector takes {self.batch_size} only: "
                "use that, or export the detector for another"
            )
        return batch_size or self.batch_size or default

    def detect(
        self,
        images: Sequence[ImageArray],
        *,
        size: tuple[int, int] | None = None,
        conf_thres: float = 0.25,
        iou_thres: float = 0.45,
        max_det: int = 300,
        agnostic: bool = False,
        classes: Collection[int] | None = None,
    ) -> list[Boxes]:
        """Find objects in images of any size.

        Args:
            images: (H, W, 3) uint8 RGB, as from `load_image`; they are letterboxed here.
            size: (height, width) to letterbox to; None for the detector's, or (640, 640).
            conf_thres: As for `non_max_suppression`.
            iou_thres: As for `non_max_suppression`.
            max_det: As for `non_max_suppression`.
            agnostic: As for `non_max_suppression`.
            classes: As for `non_max_suppression`.

        Returns:
            One (n, 6) array per image: x1, y1, x2, y2 in its pixels, confidence, class; the most
            confident first.

        Raises:
            ArtifactError: the file cannot be run, or gives numbers that are not finite.
            ConfigError: a setting is out of range, or does not suit the detector.
        """
        size = self.check_size(size)
        step = self.batch_size or max(len(images), 1)
        found = []
        for start in range(0, len(images), step):
            placed = [letterbox(image, size) for image in images[start : start + step]]
            canvases = [canvas.transpose(2, 0, 1) for canvas, _ in placed]
            canvases += canvases[:1] * ((self.batch_size or 0) - len(canvases))  # fill the batch
            rows = self.predict(np.ascontiguousarray(canvases))[: len(placed)]
            check_predictions(rows)
            boxes = non_max_suppression(
                rows,
                conf_thres=conf_thres,
                iou_thres=iou_thres,
                max_det=max_det,
                agnostic=agnostic,
                classes=classes,
            )
            found += [box.unmap_boxes(one) for one, (_, box) in zip(boxes, placed, strict=True)]
        return found


def _check(
    path: Path, content: bytes, session: Any, detector: Detector, *, device: Device, engine: str
) -> None:
    (one,), output = session.get_inputs(), session.get_outputs()[0].name
    height, width = detector.image_size or (2 * detector.stride, 2 * detector.stride)
    noise = np.random.default_rng(0).random((detector.batch_size or 1, 3, height, width))
    inputs = {one.name: noise.astype(INPUT_TYPES[one.type])}
    outputs = {output: session.run([output], inputs)[0]}
    half = one.type == "tensor(float16)"
    check_outputs(
        path,
        content,
        inputs,
        outputs,
        what="a detection",
        device=device,
        engine=engine,
        bound=1e-2 if half else 0.0,
    )

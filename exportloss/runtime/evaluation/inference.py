"""A trained detector: images in, boxes out."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.class_names import tidy_names
from exportloss.errors import ArtifactError, ConfigError, excerpt
from exportloss.runtime.artifact.limits import check_threads
from exportloss.runtime.artifact.onnx_file import read_onnx
from exportloss.runtime.evaluation.contained import TIME_LIMIT, ContainedDetector
from exportloss.runtime.evaluation.nms import check_predictions, non_max_suppression
from exportloss.runtime.evaluation.other_detectors import refuse_other_detectors
from exportloss.runtime.images.letterbox import letterbox
from exportloss.runtime.images.resize import ImageArray
from exportloss.runtime.sessions.devices import Device, describe_engine, import_engine
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.self_check import check_outputs
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["Detector"]

Boxes = npt.NDArray[np.float32]
Rows = npt.NDArray[np.float32]

_INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_LONGEST_METADATA = 1_000_000  # characters
_COLUMNS = 6  # of a row, at least: a box, objectness and one class
_MOST_VALUES = 1 << 28  # of the images that a file takes at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector that is not trained any more, from an ONNX file or a session.

    Attributes:
        predict: Decoded rows (B, N, 5 + nc), as in `Evaluation`, of (B, 3, H, W) uint8 RGB.
        names: The classes; empty where the file does not say.
        stride: Height and width of an image must be multiples of this.
        batch_size: Images that `predict` takes at once; None for any number.
        image_size: Height and width that it takes; None for any.
    """

    predict: Callable[[ImageArray], Rows]
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
        """Open an inference file: ours, or one that YOLOv5's `export.py` wrote.

        Args:
            path: ONNX with one input (B, 3, H, W) in [0, 1], float32 or float16, and a first
                output (B, N, 5 + nc); metadata `names` and `stride` are read where they are.
            device: `cpu`, `cuda`, `openvino`, `webgpu` and so on, as `Device.parse` reads them.
                Where a file has dynamic shapes, CUDA leaves computing these to the CPU.
            threads: Of the engine within an operator; None takes every core.
            self_check: On anything but the CPU first compare what it finds in an image of noise
                with what ONNX Runtime's CPU provider finds.
            contained: Whether to run a file that you do not trust in a process of its own, with
                limits on its time and, on the CPU, memory. `predict` then costs a copy of the
                images and rows.
            time_limit: Seconds that a contained file may take to be opened, and for each image.

        Raises:
            ArtifactError: the file is missing, damaged, or no such detector. `predict` raises it
                where the file cannot be run.
            ConfigError: the device is unknown, or `threads` no number of threads.
            DeviceError: the device computes other numbers than the CPU.
            InstallationError: there is no onnxruntime, or it cannot drive the device.
        """
        if threads is not None:
            check_threads("threads", threads)
        content = read_onnx(Path(path))  # it is whole, and refers to no other file
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
        """Open the content of an inference file; `path` is for messages, errors as for `open`."""
        where = Device.parse(device)
        engine = import_engine(where)
        session = open_graph(
            engine, Path(path), where, threads=threads or 0, strict=False, content=content
        )
        try:
            detector = _from_onnx(session, path)
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{path} has names that are no text: {error}") from error
        if self_check and where.kind != "cpu":
            said = describe_engine(engine, where)
            _check(Path(path), content, session, detector, device=where, engine=said)
        return detector

    @classmethod
    def from_session(cls, session: TrainSession) -> Detector:
        """Use a detector in training, with the running statistics, as it is at each call."""
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
        """Return the size of image to use: the wanted one, the file's, or 640 x 640.

        Raises:
            ConfigError: the file takes another size only, or the size does not fit the stride.
        """
        if self.image_size is not None:
            if size not in (None, self.image_size):
                raise ConfigError(
                    f"the image size is {size}; the detector takes {self.image_size} only: leave "
                    "--imgsz out, or export it for another size"
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
        """Return how many images to take at once: the wanted number, the file's, or the default.

        Raises:
            ConfigError: it is below 1, or the file takes another number only.
        """
        if batch_size is not None:
            at_least(1, batch_size=batch_size)
        if batch_size not in (None, self.batch_size) and self.batch_size is not None:
            raise ConfigError(
                f"the batch size is {batch_size}; the detector takes {self.batch_size} only: "
                "leave --batch-size out"
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
            images: (H, W, 3) RGB, as from `load_image`; they are letterboxed here.
            size: Height and width to letterbox to; None takes the file's, or 640 x 640.
            conf_thres: As for `non_max_suppression`, like the rest.
            iou_thres: See there.
            max_det: See there.
            agnostic: See there.
            classes: See there.

        Returns:
            One (n, 6) array an image: x1, y1, x2, y2 in its pixels, confidence, class; the most
            confident first.

        Raises:
            ArtifactError: the file cannot be run, or gives numbers that are not finite.
            ConfigError: a setting is out of range, or does not suit the file.
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


def _from_onnx(session: Any, path: str) -> Detector:
    inputs, output = session.get_inputs(), session.get_outputs()[0]
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _INPUT_TYPES:
        described = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        raise ArtifactError(
            f"{path} takes {described}; expected images alone, (B, 3, H, W), float32 or float16"
        )
    columns = output.shape[-1] if output.shape else None
    if len(output.shape) != 3 or (isinstance(columns, int) and columns < _COLUMNS):
        raise ArtifactError(
            f"{path} gives {output.name} {output.shape}; expected (B, N, 5 + classes): a YOLOv5 "
            "detector, without non-maximum suppression in the file"
        )
    if any(isinstance(side, int) and side < 1 for side in inputs[0].shape):
        raise ArtifactError(f"{path} takes {inputs[0].shape}; expected sides of at least 1")
    if inputs[0].shape[1] == 1:
        raise ArtifactError(f"{path} takes grey images, {inputs[0].shape}; expected three colours")
    if isinstance(inputs[0].shape[1], int) and inputs[0].shape[1] != 3:
        raise ArtifactError(f"{path} takes {inputs[0].shape}; expected images of 3 channels")
    fixed = [side for side in inputs[0].shape if isinstance(side, int)]
    if math.prod(fixed) > _MOST_VALUES:
        raise ArtifactError(
            f"{path} takes {inputs[0].shape}, {math.prod(fixed)} values at once; {_MOST_VALUES} is "
            "the most"
        )
    name, dtype = inputs[0].name, _INPUT_TYPES[inputs[0].type]
    batch, _, *sides = (side if isinstance(side, int) else None for side in inputs[0].shape)
    height, width = sides
    metadata = session.get_modelmeta().custom_metadata_map
    names = _names(metadata.get("names", ""))
    image_size = None if height is None or width is None else (height, width)
    shapes = [one.shape for one in session.get_outputs()]
    refuse_other_detectors(path, shapes, names=names, image_size=image_size, metadata=metadata)

    def predict(images: ImageArray) -> Rows:
        scaled = (images.astype(np.float32) / np.float32(255)).astype(dtype, copy=False)
        try:
            rows = session.run([output.name], {name: scaled})[0]
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ArtifactError(f"{path} cannot be run: {excerpt(error, 500)}") from error
        if not isinstance(rows, np.ndarray) or rows.dtype.kind != "f":
            kind = getattr(rows, "dtype", type(rows).__name__)
            raise ArtifactError(f"{path} gives {kind}; expected numbers, (B, N, 5 + classes)")
        if not isinstance(columns, int):  # which only now are known
            refuse_other_detectors(
                path, [rows.shape], names=names, image_size=scaled.shape[2:], metadata=metadata
            )
        if rows.ndim != 3 or len(rows) != len(images) or rows.shape[2] < _COLUMNS:
            raise ArtifactError(
                f"{path} gives {rows.shape} for {len(images)} images; expected (B, N, 5 + classes)"
            )
        return rows.astype(np.float32, copy=False)

    return Detector(
        predict=predict,
        names=names,
        stride=_stride(metadata.get("stride", "")),
        batch_size=batch,
        image_size=image_size,
    )


def _check(
    path: Path, content: bytes, session: Any, detector: Detector, *, device: Device, engine: str
) -> None:
    (one,), output = session.get_inputs(), session.get_outputs()[0].name
    height, width = detector.image_size or (2 * detector.stride, 2 * detector.stride)
    noise = np.random.default_rng(0).random((detector.batch_size or 1, 3, height, width))
    inputs = {one.name: noise.astype(_INPUT_TYPES[one.type])}
    outputs = {output: session.run([output], inputs)[0]}
    half = one.type == "tensor(float16)"
    check_outputs(
        path,
        content,
        inputs,
        outputs,
        what="a detection",
        device=str(device),
        engine=engine,
        bound=1e-2 if half else 1e-4,
    )


def _names(text: str) -> tuple[str, ...]:
    """Read the classes, a dictionary or list in Python's notation; () for anything else."""
    if len(text) > _LONGEST_METADATA:
        return ()
    try:
        value = ast.literal_eval(text)
        if isinstance(value, dict) and set(value) == set(range(len(value))):
            value = [value[index] for index in range(len(value))]
        if not isinstance(value, list | tuple):
            return ()
        return tidy_names(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ()


def _stride(text: str) -> int:
    """Read the stride; YOLOv5's 32 for anything but a positive whole number."""
    match = re.fullmatch(r"(\d{1,4})(\.0)?", text.strip())
    return int(match[1]) or 32 if match else 32

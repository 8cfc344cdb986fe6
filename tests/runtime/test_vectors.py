"""The test vectors of the formats, which implementations in other languages run as well.

`tests/vectors/README.md` describes each file.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exportloss.errors import ArtifactError, TargetError, TooManyTargetsError
from exportloss.runtime.artifact.flat_layout import FlatLayout
from exportloss.runtime.artifact.listed_files import FileEntry, read_listed_files
from exportloss.runtime.artifact.onnx_files.baked_model import with_initializers
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum, model_is_whole
from exportloss.runtime.artifact.state import TrainState, load_state, save_state
from exportloss.runtime.artifact.state_checks import check_values
from exportloss.runtime.artifact.state_digest import state_digest, state_digest_1
from exportloss.runtime.artifact.tensor_file import (
    StoredTensor,
    read_tensor_file,
    write_stored_tensors,
)
from exportloss.runtime.evaluation.metrics import MetricsAccumulator
from exportloss.runtime.evaluation.nms import non_max_suppression
from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.images.resize import resize_area, resize_linear
from exportloss.runtime.optimizers.ema import decay_after
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.schedule import Schedule
from exportloss.targets import COLUMNS, pad_targets
from tests.support.vectors import VECTORS, make_vectors
from tests.support.vectors.readers import manifest_values
from tests.support.vectors.suppression import is_usable
from tests.support.vectors.text import parsed, plain

# What the message of a refusal has, by the code of the vectors.
CODES = {
    "not-safetensors": "not a readable training state",
    "not-a-state": "expected a training state",
    "incomplete": "not a complete training state",
    "values": "expected float32|not finite|negative values|expected an integer|bfloat16",
    "unreadable": "not readable",
    "not-an-artifact": "has format",
    "damaged": "damaged",
    "newer": "newer exportloss",
    "missing": "is missing",
    "too-large": "expected at most",
    "too-many": "names 65 files",
    "outside": "outside the folder",
}
KINDS = {"not-finite": "a finite number", "not-whole": "a whole number", "range": "expected"}


def cases(name: str, what: str | None = None) -> list[Any]:
    found = json.loads((VECTORS / f"{name}.json").read_text())
    chosen = [case for case in found if what is None or case["what"] == what]
    assert chosen
    return [pytest.param(case, id=case["name"]) for case in chosen]


def content(case: dict[str, Any], key: str = "file") -> bytes:
    return (VECTORS / case[key]).read_bytes()


def pixels(case: dict[str, Any], key: str, size: str) -> np.ndarray:
    return np.frombuffer(content(case, key), np.uint8).reshape(*case[size], 3)


def open_state(path: Path) -> TrainState:
    state = load_state(path)
    check_values(state, str(path))
    return state


@pytest.mark.parametrize("case", cases("states"))
def test_states(case, tmp_path):
    path = VECTORS / case["file"]
    if case["result"] != "accept":
        with pytest.raises(ArtifactError, match=CODES[case["result"]]) as caught:
            open_state(path)
        others = (CODES[code] for code in ("not-safetensors", "newer"))
        assert all(
            each == CODES[case["result"]] or each not in str(caught.value) for each in others
        )
        return
    state = open_state(path)
    assert state.updates == int(case["metadata"]["updates"])
    assert state.skipped == int(case["metadata"].get("skipped", "0"))
    file = read_tensor_file(path)
    assert dict(file.about).keys() - {"sha256"} == case["metadata"].keys()
    assert [file.about[key] for key in case["metadata"]] == list(case["metadata"].values())
    held = {
        name: (each.dtype, list(each.shape), bytes(each.content).hex())
        for name, each in file.tensors.items()
    }
    assert held == {
        each["name"]: (each["dtype"], each["shape"], each["hex"]) for each in case["tensors"]
    }
    if case["canonical"] and case["metadata"].keys() == {"format", "updates", "skipped"}:
        save_state(tmp_path / "saved", state)
        assert (tmp_path / "saved").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "case", [each for each in cases("states") if "canonical" in each.values[0]]
)
def test_states_are_written_to_these_bytes(case):
    tensors = {
        each["name"]: StoredTensor(
            each["dtype"], tuple(each["shape"]), memoryview(bytes.fromhex(each["hex"]))
        )
        for each in case["tensors"]
    }
    about = case["metadata"]
    old = about["format"] == "exportloss-state/1"
    digest = (state_digest_1 if old else state_digest)(tensors, about)
    assert digest.encode() in content(case)
    file = io.BytesIO()
    write_stored_tensors(file, tensors, about | {"sha256": digest})
    assert (file.getvalue() == content(case)) == (case["canonical"] or old)


@pytest.mark.parametrize(
    "case",
    [
        each
        for each in cases("states")
        if each.values[0].get("metadata", {}).get("format") == "exportloss-state/2"
    ],
)
def test_checksums_of_states_are_those_of_the_page(case):
    """Computed from docs/format.md, with nothing of the package."""

    def prefixed(text: str) -> bytes:
        return struct.pack("<Q", len(text.encode())) + text.encode()

    about = sorted(case["metadata"].items(), key=lambda item: item[0].encode())
    message = struct.pack("<Q", len(about)) + b"".join(prefixed(k) + prefixed(v) for k, v in about)
    message += struct.pack("<Q", len(case["tensors"]))
    for each in sorted(case["tensors"], key=lambda each: each["name"].encode()):
        shape = each["shape"]
        message += prefixed(each["name"]) + prefixed(each["dtype"])
        message += struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)
        message += bytes.fromhex(each["hex"])
    assert hashlib.sha256(message).hexdigest().encode() in content(case)


@pytest.mark.parametrize("case", cases("manifests"))
def test_manifests(case):
    if case["result"] == "accept":
        assert plain(manifest_values(content(case))) == case["values"]
        return
    with pytest.raises(ArtifactError, match=CODES[case["result"]]):
        manifest_values(content(case))


@pytest.mark.parametrize("case", cases("folders"))
def test_folders(case, tmp_path):
    for name, text in case["held"].items():
        (tmp_path / name).write_bytes(bytes.fromhex(text))
    listed = {name: FileEntry(**entry) for name, entry in case["listed"].items()}
    if case["result"] == "accept":
        assert dict(read_listed_files(tmp_path, listed)).keys() == listed.keys()
        return
    with pytest.raises(ArtifactError, match=CODES[case["result"]]):
        list(read_listed_files(tmp_path, listed))


@pytest.mark.parametrize("case", cases("layouts"))
def test_layouts(case):
    if case["result"] != "accept":
        with pytest.raises((KeyError, TypeError, ValueError)):
            FlatLayout.from_values(case["entries"])
        return
    layout = FlatLayout.from_values(case["entries"])
    assert [list(layout.sizes), list(layout.offsets)] == [case["sizes"], case["offsets"]]
    vector = np.array(case["vector"], np.float32)
    tensors = layout.split(vector)
    assert plain(tensors) == case["tensors"]
    assert layout.size == case["size"] == len(vector)
    np.testing.assert_array_equal(layout.join(tensors), vector)


@pytest.mark.parametrize("case", cases("targets"))
def test_targets(case):
    limits = {key: case[key] for key in ("max_targets", "batch_size", "num_classes")}
    rows, overflow = parsed(case["rows"]), case.get("overflow", "raise")
    if case["result"] == "accept":
        padded = pad_targets(rows, **limits, overflow=overflow)
        padded, dropped = padded if overflow == "keep_largest" else (padded, 0)
        expected = np.array(case["padded"], np.float32)
        assert padded.tobytes() == expected.tobytes() and dropped == case["dropped"]
        return
    refusal = TooManyTargetsError if case["result"] == "too-many" else TargetError
    with pytest.raises(refusal) as caught:
        pad_targets(rows, **limits, overflow=overflow)
    message = str(caught.value)
    assert ("shape" in message) == (case["result"] == "shape")
    said = [line.strip() for line in message.splitlines() if line.strip().startswith("row")]
    for problem, line in zip(case.get("problems", []), said, strict=True):
        assert problem["column"] in COLUMNS
        assert line.startswith(f"row {problem['row']}: {problem['column']} is ")
        kinds = [kind for kind, text in KINDS.items() if text in line]
        assert kinds[0] == problem["kind"]


@pytest.mark.parametrize("case", cases("images", "detection"))
def test_letterbox(case):
    options = {key: case[key] for key in ("scale_up", "color") if key in case}
    canvas, box = letterbox(pixels(case, "image", "source"), tuple(case["size"]), **options)
    np.testing.assert_array_equal(canvas, pixels(case, "result", "size"))
    check_place(case, box)


@pytest.mark.parametrize("case", [*cases("images", "training"), *cases("images", "validation")])
def test_images_of_training_and_validation(case):
    image = pixels(case, "image", "source")
    box = Letterbox.fit(tuple(case["source"]), tuple(case["size"]), truncate=True)
    shrinks = box.scaled[0] <= image.shape[0] and box.scaled[1] <= image.shape[1]
    resize = resize_area if shrinks and case["what"] == "validation" else resize_linear
    canvas = np.array(box.place(Image.fromarray(resize(image, box.scaled))))
    np.testing.assert_array_equal(canvas, pixels(case, "result", "size"))
    check_place(case, box)


def check_place(case: dict[str, Any], box: Letterbox) -> None:
    assert plain([box.scaled, box.pad, box.ratio]) == [case["scaled"], case["pad"], case["ratio"]]
    labels, boxes = np.array(case["labels"]), np.array(case["boxes"])
    np.testing.assert_array_equal(box.map_labels(labels), np.float32(case["mapped_labels"]))
    np.testing.assert_array_equal(box.unmap_boxes(boxes), np.float32(case["unmapped_boxes"]))


def test_pixels():
    (pixel,), (planes,) = (cases("images", what)[0].values for what in ("pixels", "planes"))
    scaled = np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255)
    assert scaled.astype("<f4").tobytes().hex() == pixel["hex"]
    image = np.frombuffer(bytes.fromhex(planes["hex"]), np.uint8).reshape(*planes["source"], 3)
    assert image.transpose(2, 0, 1).tobytes().hex() == planes["planes"]


@pytest.mark.parametrize("case", cases("schedules", "schedule"))
def test_schedules(case):
    names = ("epochs", "batches", "batch_size", "optimizer", "cosine", "nominal_batch")
    schedule = Schedule(**{n: case[n] for n in names}, config=TrainingConfig(**case["config"]))
    planned = [step for epoch in range(case["epochs"]) for step in schedule.steps(epoch)]
    assert schedule.warmup_batches == case["warmup_batches"]
    np.testing.assert_allclose(schedule.weight_decay, case["weight_decay"], rtol=1e-12)
    for step, expected in zip(planned, case["steps"], strict=True):
        assert [step.accumulate, step.update] == expected[4:]
        np.testing.assert_allclose([*step.lr, step.momentum], expected[:4], rtol=1e-12, atol=1e-15)


def test_decay_of_the_moving_average():
    (case,) = cases("schedules", "ema")[0].values
    found = [decay_after(updates) for updates in case["updates"]]
    np.testing.assert_allclose(found, case["decays"], rtol=1e-12)


@pytest.mark.parametrize("case", cases("nms"))
def test_non_maximum_suppression(case):
    predictions = np.frombuffer(content(case, "predictions"), "<f4").reshape(case["shape"])
    names = "conf_thres iou_thres max_det agnostic multi_label classes max_candidates".split()
    kept = non_max_suppression(predictions, **{name: case[name] for name in names})
    assert plain(kept) == case["kept"]
    assert is_usable(predictions) == case["usable"]


@pytest.mark.parametrize("case", cases("metrics"))
def test_metrics(case):
    metrics = MetricsAccumulator(case["num_classes"], max_det=case["max_det"])
    for image in case["images"]:
        detections = np.array(image["detections"]).reshape(-1, 6)
        metrics.add(detections, np.array(image["labels"]).reshape(-1, 5))
    result = metrics.result()
    found = [getattr(result, name) for name in case["metrics"]]
    np.testing.assert_allclose(found, list(case["metrics"].values()), rtol=1e-12)
    assert {str(one.index) for one in result.classes} == case["ap50_95"].keys()
    for one in result.classes:
        np.testing.assert_allclose(one.ap50_95, case["ap50_95"][str(one.index)], rtol=1e-12)


@pytest.mark.parametrize("case", cases("detectors", "written"))
def test_detectors(case):
    weights = {
        each["name"]: np.frombuffer(bytes.fromhex(each["hex"]), "<f4").reshape(each["shape"])
        for each in case["weights"]
    }
    written = add_model_checksum(with_initializers(content(case), weights))
    assert written == content(case, "result")


@pytest.mark.parametrize("case", cases("detectors", "checksum"))
def test_checksums_of_detectors(case):
    assert model_is_whole(content(case)) == case["whole"]


def test_the_vectors_are_those_of_their_maker():
    """`python -m tests.support.vectors` writes them."""
    made = make_vectors()
    held = {
        path.relative_to(VECTORS).as_posix(): path.read_bytes()
        for path in VECTORS.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert made.keys() == held.keys()
    assert [path for path, each in made.items() if held[path] != each] == []
    assert sum(map(len, made.values())) < 1 << 20

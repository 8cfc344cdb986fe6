"""`python -m fuzzing.make_seeds`: write the seeds that are valid files, small ones of each kind.

Seeds whose names begin with `found-` once broke a reader; they are kept, and not written here.
"""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from PIL import Image
from torch import Tensor, nn

from exportloss.models import YoloV5, yolov5
from exportloss.runtime.artifact.manifest import FileEntry, Manifest, ParameterGroupNames
from exportloss.runtime.artifact.state import TrainState, save_state
from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.training.results import EpochResult, Scores, write_results
from exportloss.runtime.training.run_log import append_to_log
from fuzzing.commands import encode_words
from fuzzing.folders import encode
from fuzzing.targets import SEEDS
from tests.support.yolov5_files import save_checkpoint, yolov5_classes

_NAMES = ("cat", "dog", "ünïcode")
_TEXTS = {
    "labels/boxes": "0 0.5 0.5 0.25 0.125\n79 0 1 1e-3 1\n",
    "labels/polygon": "\ufeff3 0.1 0.1 0.9 0.1 0.5 0.9\r\n\r\n3 0.1 0.1 0.9 0.1 0.5 0.9\r\n",
    "labels/empty": "",
    "image_list/missing": "./images/a.jpg\n/nowhere/b.png\n",
    "coco/instances": (
        '{"info": {"year": 2017}, "images": [{"id": 9, "file_name": "a.png", "width": 48, '
        '"height": 32}, {"id": 4, "file_name": "x/b.jpg"}], "annotations": [{"id": 1, '
        '"image_id": 9, "category_id": 3, "bbox": [1, 2.5, 3e1, 4], "iscrowd": 0, '
        '"segmentation": [[1, 2, 3, 4, 5, 6]]}, {"image_id": 4, "category_id": 90, '
        '"bbox": [-1, 0, 9, 9], "iscrowd": 1}], "categories": [{"id": 90, "name": "dog"}, '
        '{"id": 3, "name": "\u00e9t\u00e9"}]}'
    ),
    "data_yaml/list": "path: x\ntrain: images\nval: [a, b.txt]\nnc: 2\nnames: [cat, 'no']\n",
    "data_yaml/numbered": "train: ../images # comment\nnames:\n  0: cat\n  1: dog\n",
    "hyp_yaml/all": "lr0: 0.01\nbox: 0.05\nfl_gamma: 1.5\ncriterion: qfocal\nmosaic: 1\n",
    "hyp_yaml/flags": "autobalance: true\nsort_obj_iou: false\ngr: 1.0\nanchors: 3\n",
    "options_yaml/run": "weights: best.pt\ndata: data.yaml\nepochs: 3\nfreeze: null\n"
    "cos_lr: false\nimgsz: [64]\n",
    "class_names/mapping": "{0: 'cat', 1: 'dog', 2: 'cow'}",
    "class_names/list": "['cat', \"dog\", 'cow']",
}


def main() -> None:
    """Write all seeds except the found ones."""
    for name, content in make_seeds().items():
        (SEEDS / name).parent.mkdir(parents=True, exist_ok=True)
        (SEEDS / name).write_bytes(content)


def make_seeds() -> dict[str, bytes]:
    """Return the contents of seeds by path, `<target>/<name>`."""
    seeds = {name: text.encode() for name, text in _TEXTS.items()}
    seeds |= _images() | _written_by_us() | _onnx() | _trees() | _command_lines()
    model = yolov5("yolov5n", len(_NAMES)).half()
    return {**seeds, **_pickles(model), "weights/header": _header(model), **_torch_files()}


def _trees() -> dict[str, bytes]:
    trees = {
        "empty": (),
        "linked": ((".lock", "link", 1), ("weights", "link", 0), ("a.png", "pipe", 0)),
        "left_over": (
            (".artifacts.replaced", "folder", 0),
            (".opt.yaml-abcdefgh.tmp", "pipe", 0),
            ("artifacts/manifest.json", "file", 3),
            ("artifacts/mine.txt", "file", 0),
        ),
        "hard_linked": ((".lock", "hard link", 0), ("results.csv", "file", 4), ("a/a", "link", 2)),
    }
    return {f"run_folder/{name}": encode(*entries) for name, entries in trees.items()}


def _command_lines() -> dict[str, bytes]:
    lines = {
        "detect": "detect --weights a.onnx --source photos --save-txt --project out",
        "val": "val --weights run --data data.yaml --exist-ok --name x",
        "train": "train --resume run",
        "export": "export --weights yolov5n --nc 1 --output out --format loss,onnx",
        "check": "check a.onnx --for cpu --verbose",
        "help": "--help",
    }
    return {f"command_line/{name}": encode_words(*line.split()) for name, line in lines.items()}


def _images() -> dict[str, bytes]:
    colours = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    image, seeds = Image.fromarray(colours), {}
    for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"):
        content = io.BytesIO()
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(content, kind, **({"exif": turned} if kind in ("JPEG", "PNG") else {}))
        seeds[f"image/{kind.lower()}"] = content.getvalue()
    seeds["image/jpeg-without-end"] = seeds["image/jpeg"][:-2]
    return seeds


def _written_by_us() -> dict[str, bytes]:
    ones = np.ones(2, np.float32)
    manifest = Manifest(
        kind="train-step",
        model="yolov5n",
        names=_NAMES,
        anchors=(((10.0, 13.0),), ((30.0, 61.0),)),
        strides=(8.0, 16.0),
        image_size=(64, 64),
        batch_size=2,
        max_targets=32,
        optimizer="sgd",
        groups=ParameterGroupNames(weights=("w",)),
        opset=18,
        files={"train_step.onnx": FileEntry(sha256="0" * 64, size=10)},
    )
    state = TrainState(
        model={"w": ones}, optimizer={"momentum": {"w": ones}}, loss={"balance": ones}, updates=3
    )
    results = EpochResult(
        epoch=0,
        train=LossTerms(0.1, 0.2, 0.3),
        val=None,
        scores=Scores(precision=0.1, recall=0.2, map50=0.3, map50_95=0.4),
        lr=(0.01, 0.02, 0.03),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        save_state(path, state, manifest=manifest)
        saved = path.read_bytes()
        append_to_log(Path(folder) / "log", results)
        write_results(path, [results])
        return {
            "manifest/step": manifest.to_json().encode(),
            "state/small": _without_hash(saved),
            "results/epoch": path.read_bytes(),
            "log/epoch": (Path(folder) / "log").read_bytes(),
        }


def _without_hash(saved: bytes) -> bytes:
    """Remove the checksum, which the target does not check."""
    end = 8 + int.from_bytes(saved[:8], "little")
    header = json.loads(saved[8:end])
    del header["__metadata__"]["sha256"]
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + saved[end:]


def _onnx() -> dict[str, bytes]:
    """Return a detector with a box per row of pixels, and models for `encoding`."""
    shapes = {"images": [1, 3, 4, 8], "output": [1, 12, 8]}
    nodes = [onnx.helper.make_node("Reshape", ["images", "shape"], ["output"])]
    tensors = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    shape = onnx.numpy_helper.from_array(np.array(shapes["output"]), "shape")
    graph = onnx.helper.make_graph(nodes, "detector", tensors[:1], tensors[1:], [shape])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset])
    content = model.SerializeToString()
    return {"onnx/detector.onnx": content, "encoding/detector": content, **_encodings()}


def _encodings() -> dict[str, bytes]:
    """Return models that contain every message that may hold a tensor."""
    helper, ones = onnx.helper, onnx.numpy_helper.from_array(np.ones(1, np.float32), "ones")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    sparse = helper.make_sparse_tensor(ones, indices, [2])
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=ones)], "i", [], [])
    shape = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, "n", None])
    texts = helper.make_value_info(
        "s", helper.make_sequence_type_proto(helper.make_tensor_type_proto(8, ["n"]))
    )
    nodes = [
        helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("X", ["x"], ["z"], ts=[ones], gs=[inner], s=sparse, ss=[sparse]),
    ]
    graph = helper.make_graph(
        nodes, "g", [shape, texts], [shape], [ones], sparse_initializer=[sparse]
    )
    opsets = [helper.make_opsetid(domain, 18) for domain in ("", "own")]
    function = helper.make_function("own", "X", ["x"], ["y"], inner.node, opsets)
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=[function])
    model.training_info.append(onnx.TrainingInfoProto(algorithm=inner))
    whole = model.SerializeToString()
    ones.external_data.add(key="location", value="../w")
    return {
        "encoding/everything": whole,
        "encoding/twice": whole + onnx.ModelProto(graph=inner).SerializeToString(),
        "encoding/other_file": helper.make_model(
            helper.make_graph([], "g", [], [], [ones])
        ).SerializeToString(),
    }


def _header(model: YoloV5) -> bytes:
    """Return the safetensors header of all tensors; the target appends the values."""
    header, start = {}, 0
    for name, tensor in model.state_dict().items():
        size = tensor.numel() * 2
        offsets = [start, start + size]
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
        start += size
    return json.dumps(header, separators=(",", ":")).encode()


def _pickles(model: YoloV5) -> dict[str, bytes]:
    """Return pickles of YOLOv5 checkpoints, whole and reduced, with one storage for all tensors."""
    with tempfile.TemporaryDirectory() as folder, yolov5_classes():
        path = Path(folder) / "a.pt"
        save_checkpoint(path, model, names=list(_NAMES), bare=True)
        whole = torch.load(path, weights_only=False)
        tensors = list(_tensors(whole))
        flat = torch.ones(sum(map(Tensor.numel, tensors)), dtype=torch.half)
        whole.stride, whole.class_weights = [8, 16, 32], None
        start = 0
        for module in whole.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    shared = flat[start : start + tensor.numel()].view(tensor.shape)
                    held[name] = nn.Parameter(shared) if held is module._parameters else shared
                    start += tensor.numel()
        whole.model[-1].stride = whole.model[-1].grid = None
        seeds = {"pickle/checkpoint": _pickled(whole, path)}
        first = whole.model[0]
        whole.model = nn.Sequential(first)
        seeds["pickle/one_layer"] = _pickled({"model": whole}, path)
        seeds["pickle/state_dict"] = _pickled(dict(first.state_dict()), path)
        return seeds


def _pickled(value: object, path: Path) -> bytes:
    torch.save(value, path)
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{path.stem}/data.pkl")


def _tensors(whole: nn.Module) -> Iterator[Tensor]:
    for module in whole.modules():
        yield from (*module._parameters.values(), *module._buffers.values())


def _torch_files() -> dict[str, bytes]:
    seeds = {}
    for name, is_zip in (("archive", True), ("old", False)):
        content = io.BytesIO()
        tensors = {"model.0.conv.weight": torch.ones(2), "model.24.m.0.bias": torch.ones(24)}
        torch.save(tensors, content, _use_new_zipfile_serialization=is_zip)
        seeds[f"torch_file/{name}"] = content.getvalue()
    with zipfile.ZipFile(io.BytesIO(seeds["torch_file/archive"])) as archive:
        members = [f"{name}\n".encode() + archive.read(name) for name in archive.namelist()]
    seeds["members/archive"] = b"\n--\n".join(members)
    return seeds


if __name__ == "__main__":
    main()

"""The fuzz targets: one per kind of untrusted file, one for folders, one for the commands."""

from __future__ import annotations

import dataclasses
import io
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from exportloss.cli import make_parser
from exportloss.cli.train.options import fill_options
from exportloss.config import LossConfig
from exportloss.errors import ExportLossError
from exportloss.export import check
from exportloss.models import read_checkpoint, transfer
from exportloss.runtime.artifact import manifest_file, state
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.data.coco import file as coco_file
from exportloss.runtime.data.coco.split import coco_names, coco_rows
from exportloss.runtime.data.dataset import DataConfig, Dataset, read_data_yaml
from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.data.sources import find_images
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.images.load import inspect_image, load_image, load_scaled
from exportloss.runtime.training.hyp import read_hyp
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.run_log import read_start
from fuzzing.commands import run_made_up_command
from fuzzing.differences import load_watched, read_tensors_twice, read_twice
from fuzzing.folders import use_made_up_folder

__all__ = ["MAX_MESSAGE", "SEEDS", "TARGETS", "Target", "read_made_up"]

SEEDS = Path(__file__).parent / "seeds"  # seeds/<target>/<anything>

MAX_MESSAGE = 10_000  # bytes of an error's message, whose size a file must not choose
_RESUME = make_parser().parse_args(["train", "--resume", "run"])
_SEPARATOR = b"\n--\n"  # between the members of an archive
# Half-precision ones, as many as a YOLOv5n for three classes has values; two targets append them.
_WEIGHTS = b"\0\x3c" * (3_555_110 // 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of file and its reader.

    Attributes:
        file_name: Name of the file.
        read: Function that reads the file.
        tokens: Words of such files, for the mutators.
        wrap: Function applied to the fuzzer's bytes before they are written, such as packing them
            into an archive with valid checksums.
    """

    file_name: str
    read: Callable[[Path], object]
    tokens: tuple[bytes, ...] = ()
    wrap: Callable[[bytes], bytes] = bytes


def read_made_up(target: Target, content: bytes, folder: Path) -> bool:
    """Write and read a file, and return whether the reader accepted it.

    Args:
        target: Kind of file.
        content: Bytes of the fuzzer.
        folder: Empty folder for the file.

    Raises:
        ValueError: the message of an `ExportLossError` is too long or cannot be encoded.
        Exception: the reader raised anything but an `ExportLossError`.
    """
    path = folder / target.file_name
    path.write_bytes(target.wrap(content))
    try:
        target.read(path)
    except ExportLossError as error:
        if len(str(error).encode()) > MAX_MESSAGE:  # surrogates raise
            raise ValueError(f"an error of {len(str(error))} characters") from error
        return False
    return True


def _read_hyp(path: Path) -> None:
    LossConfig.from_mapping(read_hyp(path))
    LossConfig.from_yaml(path)


def _read_options(path: Path) -> None:
    run = RunFolder(path.parent)
    run.artifacts.mkdir(exist_ok=True)
    (run.artifacts / MANIFEST_NAME).touch()
    try:
        fill_options(_RESUME, run)
    finally:
        shutil.rmtree(run.artifacts)


def _read_image_list(path: Path) -> None:
    config = DataConfig(source=path, root=path.parent, train=(path,), val=(), names=("a",))
    Dataset.open(config, "train")
    find_images(path)


def _read_coco(path: Path) -> None:
    coco_file.forget()  # inputs of equal size can have the same modification time
    config = DataConfig(
        source=path,
        root=path.parent,
        train=(path,),
        val=(),
        names=coco_names(path),
        image_folders={"train": path.parent},
    )
    dataset = Dataset.open(config, "train")
    assert dataset.coco is not None
    for image in dataset.images:
        coco_rows(dataset.coco, image, dataset.coco.images[image].size or (32, 48))


def _read_image(path: Path) -> None:
    load_image(path)
    inspect_image(path)
    load_scaled(path, (32, 32), linear=True)


def _read_manifest(path: Path) -> None:
    # A checksum is not a signature, so hostile bytes may have the right one.
    with mock.patch.object(manifest_file, "text_is_whole", return_value=True):
        manifest = Manifest.read(path.parent)
    manifest.to_json()
    manifest.verify_files(path.parent)


def _read_state(path: Path) -> None:
    read_tensors_twice(path)
    # The same holds for the checksum of a state.
    with mock.patch.object(state, "_digest", return_value=None):
        state.load_state(path)


def _read_weights(path: Path) -> None:
    transfer(read_checkpoint(path))


def _read_torch_file(path: Path) -> None:
    load_watched(path)
    _read_weights(path)


def _read_encoding(path: Path) -> None:
    read_twice(read_onnx(path))


def _as_archive(pickled: bytes) -> bytes:
    """Put a pickle into an archive like torch.save's, with one storage of ones."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/data/0", _WEIGHTS)
        archive.writestr("a/version", "3\n")
    return content.getvalue()


def _as_members(content: bytes) -> bytes:
    """Make an archive of consecutive members: name, line end, content, separator."""
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w") as archive:
        warnings.simplefilter("ignore")  # duplicate names
        for member in content.split(_SEPARATOR):
            name, _, held = member.partition(b"\n")
            archive.writestr(zipfile.ZipInfo(name.decode("utf-8", "replace")), held)
    return written.getvalue()


def _as_safetensors(header: bytes) -> bytes:
    """Put a header before the values that it describes."""
    return len(header).to_bytes(8, "little") + header + _WEIGHTS


def _with_names(names: bytes) -> bytes:
    """Append class names to the metadata of an ONNX detector, as protocol buffers merge."""
    entry = _field(1, b"names") + _field(2, names)
    return (SEEDS / "onnx" / "detector.onnx").read_bytes() + _field(14, entry)


def _field(number: int, content: bytes) -> bytes:
    size, encoded = len(content), bytearray([number << 3 | 2])
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(encoded) + bytes([size]) + content


_YAML = tuple(b"&a *a <<: !!binary !!set !!omap !!python/name:os --- | > ? : [ { 1:2".split())
_NUMBERS = tuple(b"0 1 -1 0.5 1e999 nan inf 0x10 1_0 9223372036854775808 0.0 1e-46".split())
_JSON = tuple(b'{} [] [[ {"a": null true NaN Infinity -1e999 1e5 "\\ud800" "" "../a" 0'.split())

TARGETS = {
    "labels": Target(
        file_name="a.txt", read=lambda path: read_labels(path, 80), tokens=(*_NUMBERS, b"\r\n")
    ),
    "image_list": Target(
        file_name="a.txt", read=_read_image_list, tokens=(b"./a.jpg", b"\0.png", b"../", b"\n")
    ),
    "coco": Target(
        file_name="a.json",
        read=_read_coco,
        tokens=(
            *(*_JSON, *_NUMBERS, b"../", b"a.png"),
            *b'"images" "annotations" "categories" "id" "image_id" "bbox" "file_name"'.split(),
        ),
    ),
    "image": Target(file_name="a.jpg", read=_read_image),
    "data_yaml": Target(
        file_name="data.yaml",
        read=read_data_yaml,
        tokens=(*_YAML, *_NUMBERS, *b"path: train: val: test: nc: names: no".split()),
    ),
    "hyp_yaml": Target(
        file_name="hyp.yaml",
        read=_read_hyp,
        tokens=(*_YAML, *_NUMBERS, *b"lr0: box: fl_gamma: criterion: qfocal gr: true".split()),
    ),
    "options_yaml": Target(
        file_name="opt.yaml",
        read=_read_options,
        tokens=(*_YAML, *_NUMBERS, *b"epochs: seed: weights: true null".split()),
    ),
    "log": Target(file_name="results.jsonl", read=read_start, tokens=(*_NUMBERS, b'"', b"{", b":")),
    "results": Target(file_name="results.csv", read=read_results, tokens=(*_NUMBERS, b'"', b",")),
    "manifest": Target(file_name=MANIFEST_NAME, read=_read_manifest, tokens=_JSON),
    "state": Target(
        file_name="last.safetensors",
        read=_read_state,
        tokens=(*_JSON, b"F32", b"F16", b"BOOL", b"BF16", b"F4", b"optimizer/", b"ema/"),
    ),
    "weights": Target(
        file_name="a.safetensors",
        read=_read_weights,
        wrap=_as_safetensors,
        tokens=(*_JSON, b'"F32"', b'"__metadata__"', b'"names"', b'"exportloss-weights/1"'),
    ),
    "torch_file": Target(file_name="a.pt", read=_read_torch_file),
    "members": Target(
        file_name="a.pt",
        read=load_watched,
        wrap=_as_members,
        tokens=(
            _SEPARATOR,
            b"a/data.pkl\n",
            b"a/data.PKL\n",
            b"a/data/0\n",
            b"\0",
            b"cos\nsystem\n",
        ),
    ),
    "pickle": Target(
        file_name="a.pt",
        read=_read_weights,
        wrap=_as_archive,
        tokens=(b"cos\nsystem\n", b"ctorch\nSize\n", b"\x85R", b"}", b"]", b"(", b"0", b"h\0"),
    ),
    "onnx": Target(file_name="a.onnx", read=lambda path: check(path, provider="cpu")),
    "encoding": Target(
        file_name="a.onnx",
        read=_read_encoding,
        tokens=(
            b"\x6a\2\x0a\0",
            b"\x70\1",
            b"\xea\x80\x80\x80\x10",
            b"\x80\0",
            b"\xff" * 9 + b"\1",
        ),
    ),
    "class_names": Target(
        file_name="a.onnx",
        read=Detector.open,
        wrap=_with_names,
        tokens=(b"{0: 'a'}", b"['a']", b"(", b"0x", b"b''", b"\\N{DOG}", b"1j", b"-", b"..."),
    ),
    "run_folder": Target(file_name="entries", read=use_made_up_folder),
    "command_line": Target(file_name="words", read=run_made_up_command),
}

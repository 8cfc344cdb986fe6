"""A run's folder made from fuzzed bytes: files, folders, links and pipes."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from exportloss.cli import make_parser
from exportloss.cli.outputs import check_outputs
from exportloss.cli.train.options import fill_options
from exportloss.errors import ExportLossError
from exportloss.runtime.artifact.folder import new_folder
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.data.label_cache import Index
from exportloss.runtime.data.sources import find_images
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.training.event_file import EventFile
from exportloss.runtime.training.history import list_runs
from exportloss.runtime.training.origin import read_origin
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder, write_yaml
from exportloss.runtime.training.run_log import read_start

__all__ = ["ENTRIES", "KINDS", "encode", "use_made_up_folder"]

# Paths of entries: those of a run, those that its writers leave behind, and the user's own.
ENTRIES = (
    *(".lock", "results.csv", "opt.yaml", "hyp.yaml", "weights", "weights/last.safetensors"),
    *("weights/best.safetensors", "weights/best.onnx", "skipped_batch.npz", "artifacts"),
    *(f"artifacts/{MANIFEST_NAME}", "artifacts/state.safetensors", "artifacts/mine.txt"),
    *(".opt.yaml-abcdefgh.tmp", ".artifacts-abcdefgh.tmp", ".artifacts.replaced", "a.png", "a"),
    *("a/a", "a/a.png", "index.npz", "labels", "origin.json", "results.jsonl"),
    "events.out.tfevents.0.exportloss",
)
KINDS = ("file", "folder", "link", "hard link", "pipe", "socket")
_TARGETS = ("../mine", "../mine/a", "..", ".", "a", "weights", "artifacts", "/dev/zero", "../gone")
_CONTENTS: tuple[bytes, ...] = (b"", b"\0" * 100, b"epochs: 1\n", b"{}", b"epoch,\n1,2,3\n")
_MOST = 64  # entries of a tree
_RESUME = make_parser().parse_args(["train", "--resume", "run"])


def encode(*entries: tuple[str, str, int]) -> bytes:
    """Return the bytes that encode entries: path, kind, and index of the content or link target."""
    return b"".join(
        bytes((ENTRIES.index(name), KINDS.index(kind), which)) for name, kind, which in entries
    )


def use_made_up_folder(path: Path) -> None:
    """Make a tree from the bytes of a file, and use it as training uses a run's folder.

    Raises:
        AssertionError: something outside the folder was changed or removed.
        ExportLossError: the folder cannot be trained in, which is tried last.
    """
    content, root = path.read_bytes(), path.with_name("tree")
    run, mine = RunFolder(root / "run"), root / "mine"
    for folder in (run.path, mine / "a"):
        folder.mkdir(parents=True)
    for file in (mine / "b", mine / "best.onnx", mine / "a/last.safetensors", mine / "a/a"):
        file.write_bytes(b"kept")
    try:
        for at in range(0, min(len(content), 3 * _MOST) - 2, 3):
            with contextlib.suppress(OSError):  # it exists, or its parent is no folder
                _make(run.path, *content[at : at + 3])
        before = _files(mine)
        refused = [_refusal(act) for act in _acts(run)]
        assert _files(mine) == before
    finally:
        shutil.rmtree(root)
    if (last := refused[-1]) is not None:
        raise last


def _acts(run: RunFolder) -> tuple[Callable[[], object], ...]:
    def train() -> None:
        with run.locked():
            run.check_held()
            run.clear()
            write_yaml(run.options, {"epochs": 1})
            EventFile(run.events)
            with new_file(run.last) as temporary:
                temporary.write_bytes(b"new")

    def export() -> None:
        with new_folder(run.artifacts, exist_ok=True) as temporary:
            (temporary / MANIFEST_NAME).write_bytes(b"new")

    return (
        lambda: fill_options(_RESUME, run),
        lambda: read_results(run.results),
        lambda: load_state(run.last),
        lambda: read_start(run.log),
        lambda: read_origin(run.origin),
        lambda: list_runs(run.path.parent),
        lambda: run.subfolder("labels"),
        lambda: Manifest.read(run.artifacts).verify_files(run.artifacts),
        lambda: find_images(run.path),
        lambda: find_images(run.path / "**" / "*.png"),
        lambda: check_outputs([run.best_onnx, run.path / "a"], [run.path], trees=[run.artifacts]),
        lambda: Index.load(run.path / "index.npz"),
        lambda: Index().save(run.path / "index.npz"),
        export,
        train,
    )


def _files(folder: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


def _refusal(act: Callable[[], object]) -> ExportLossError | None:
    try:
        act()
    except ExportLossError as error:
        return error
    return None


def _make(root: Path, name: int, kind: int, which: int) -> None:
    path = root / ENTRIES[name % len(ENTRIES)]
    if kind % len(KINDS) < len(KINDS) - 1:
        path.parent.mkdir(exist_ok=True)
    match KINDS[kind % len(KINDS)]:
        case "file":
            with path.open("xb") as file:
                file.write(_CONTENTS[which % len(_CONTENTS)])
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to(_TARGETS[which % len(_TARGETS)])
        case "hard link":
            path.hardlink_to(root / "../mine/b")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            os.mknod(path, 0o140600)

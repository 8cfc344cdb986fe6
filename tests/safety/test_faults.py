"""Bad days on a device: no permission, a full disk, a data set that goes, two trainings at once."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from exportloss import ArtifactError, DataError
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.folder import new_folder
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.storage import replacing
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.manifests import edit_manifest
from tests.support.messages import mentions
from tests.support.old_folders import unpack
from tests.support.training_runs import EPOCHS, Recorder, assert_same_run, make_run

NOBODY = 65534


@pytest.fixture
def old(tmp_path) -> Path:
    return unpack("0.1", tmp_path)


@pytest.fixture
def open_session(tiny_artifact):
    return lambda: TrainSession.open(tiny_artifact, threads=1)


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may write anywhere: be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_without_write_permission_is_named():
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to other users
        folder = Path(name)
        (folder / "kept").write_text("old")
        folder.chmod(0o555)
        try:
            with ordinary_user():
                for write in (new_file, new_folder):
                    with (
                        pytest.raises(ArtifactError, match=mentions(folder / "new", "denied")),
                        write(folder / "new"),
                    ):
                        pass
                with (
                    pytest.raises(ArtifactError, match=mentions(folder, "denied")),
                    RunFolder(folder).locked(),
                ):
                    pass
                with pytest.raises(ArtifactError, match=mentions(folder / "exp", "denied")):
                    RunFolder.create(folder, "exp")
        finally:
            folder.chmod(0o700)
        assert [path.name for path in folder.iterdir()] == ["kept"]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let writes beyond so many bytes of a file fail, as on a full disk."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


class Fault(Recorder):
    """A reporter that does something after an epoch."""

    def __init__(self, epoch, act):
        super().__init__()
        self.epoch, self.act = epoch, act

    def epoch_done(self, result, is_best):
        super().epoch_done(result, is_best)
        if result.epoch == self.epoch:
            self.act()


def test_a_disk_that_fills_up_leaves_the_epochs_before(open_session, tiny_shapes, tmp_path):
    whole, run = (make_run(tiny_shapes, tmp_path / name) for name in ("whole", "full"))
    whole.train(open_session())
    with contextlib.ExitStack() as full:
        fill = Fault(0, lambda: full.enter_context(largest_file(1 << 10)))
        with pytest.raises(ArtifactError, match=mentions(run.folder.path, "File too large")):
            run.train(open_session(), reporter=fill)
    assert load_state(run.folder.last).updates == load_state(run.folder.best).updates > 0
    assert len(fill.epochs) == 1
    run.train(open_session(), resume=True)
    assert_same_run(run.folder, whole.folder)


def test_a_data_set_that_goes_half_way_is_named(open_session, tiny_shapes, tmp_path):
    data = Path(shutil.copytree(tiny_shapes.parent, tmp_path / "data")) / "data.yaml"
    whole, run = (make_run(data, tmp_path / name) for name in ("whole", "gone"))
    whole.train(open_session())
    images, aside = data.parent / "images", tmp_path / "aside"
    fault = Fault(1, lambda: images.rename(aside))
    with pytest.raises(DataError, match=rf"{images}/train/\d+\.png: no such"):
        run.train(open_session(), reporter=fault)
    assert len(fault.epochs) == 2
    aside.rename(images)
    again = Recorder()
    run.train(open_session(), resume=True, reporter=again)
    assert [result.epoch for result, _ in again.epochs] == list(range(2, EPOCHS))
    assert_same_run(run.folder, whole.folder)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_run_folder_that_goes_is_noticed_at_once(open_session, tiny_shapes, tmp_path, replaced):
    run = make_run(tiny_shapes, tmp_path / "run")

    def remove() -> None:
        run.folder.path.rename(tmp_path / "aside")
        if replaced:
            run.folder.path.mkdir()

    fault = Fault(0, remove)
    with pytest.raises(ArtifactError, match=mentions(run.folder.path, "removed or replaced")):
        run.train(open_session(), reporter=fault)
    assert fault.batches[-1] == (0, len(run.train_batches))  # the next batch is not reported
    assert run.folder.path.exists() == replaced
    assert load_state(RunFolder(tmp_path / "aside").last).updates > 0


HOLD = """
import sys, time
from pathlib import Path
from exportloss.runtime.training.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_trainings_on_one_folder(open_session, tiny_shapes, tmp_path):
    run = make_run(tiny_shapes, tmp_path / "runs")
    command = [sys.executable, "-c", HOLD, str(run.folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "locked\n"
            with pytest.raises(
                ArtifactError, match=mentions(run.folder.path, f"process {other.pid}")
            ):
                run.train(open_session())
            assert not run.folder.results.exists()
        finally:
            other.kill()
    # kill -9 releases it, and what it left lying is no obstacle.
    assert (run.folder.path / ".lock").exists()
    run.train(open_session())
    assert not (run.folder.path / ".lock").exists()


def test_a_lock_is_kept_by_its_thread(tmp_path):
    folder, refused = RunFolder(tmp_path), []

    def other() -> None:
        try:
            with folder.locked():
                pass
        except ArtifactError as error:
            refused.append(str(error))

    with folder.locked(), folder.locked():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and f"process {os.getpid()}" in refused[0]
    other()
    assert len(refused) == 1


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced(old, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(replacing, "_exchange", lambda *_: False)
    for number in range(2):
        with new_folder(old / "ort", exist_ok=True) as temporary:
            (temporary / "manifest.json").write_text(f"new {number}")
        assert (old / "ort" / "manifest.json").read_text() == f"new {number}"
        assert [path.name for path in (old / "ort").iterdir()] == ["manifest.json"]
    assert not [path for path in old.iterdir() if path.name.startswith(".")]


def test_a_folder_that_was_set_aside_comes_back(old, monkeypatch):
    """Killed between the two renames of a system that cannot exchange folders."""
    before = Manifest.read(old / "ort")
    (old / "ort").rename(old / ".ort.replaced")
    assert Manifest.read(old / "ort") == before
    (old / "ort").rename(old / ".ort.replaced")
    with (
        pytest.raises(ArtifactError, match=mentions(old / "ort", "exist")),
        new_folder(old / "ort"),
    ):
        pass
    assert Manifest.read(old / "ort") == before


def test_a_rename_that_fails_puts_the_old_folder_back(old, monkeypatch):
    monkeypatch.setattr(replacing, "_exchange", lambda *_: False)
    before = Manifest.read(old / "ort")
    with pytest.raises(OSError, match="gone"):
        replacing.replace_folder(old / "gone", old / "ort")
    assert Manifest.read(old / "ort") == before


@pytest.mark.parametrize("mine", ["notes.txt", "run/weights/best.onnx", ".hidden", "link"])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_a_folder_in_which_something_of_the_users_lies_stays(old, tmp_path, mine, is_damaged):
    folder, path = old / "ort", old / "ort" / mine
    if is_damaged:
        (folder / "manifest.json").write_text("{}")
    if mine == "link":
        path.symlink_to(tmp_path)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("kept")
    before = content_of(folder)
    named = rf"{re.escape(str(folder))}.*({re.escape(Path(mine).parts[0])}|\d+ more)"
    with (
        pytest.raises(ArtifactError, match=named),
        new_folder(folder, exist_ok=True) as temporary,
    ):
        (temporary / "manifest.json").write_text("new")
    assert content_of(folder) == before
    assert os.path.lexists(path)


def test_what_is_laid_into_a_folder_while_it_is_replaced_stays(old):
    with (
        pytest.raises(ArtifactError, match=mentions(old / "ort", "notes.txt")),
        new_folder(old / "ort", exist_ok=True) as temporary,
    ):
        (temporary / "manifest.json").write_text("new")
        (old / "ort" / "notes.txt").write_text("kept")
    assert (old / "ort" / "notes.txt").read_text() == "kept"
    Manifest.read(old / "ort")


def test_a_link_to_a_folder_stays_a_link(old):
    edit_manifest(old / "ort")
    (old / "link").symlink_to(old / "ort")
    with new_folder(old / "link", exist_ok=True) as temporary:
        (temporary / "manifest.json").write_text("new")
    assert (old / "link").is_symlink()
    assert (old / "ort" / "manifest.json").read_text() == "new"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    mine = [".state-abcdefgh.tmp", ".state-mine.tmp", "state-abcdefgh.tmp", ".states-abcdefgh.tmp"]
    for name in mine:
        (tmp_path / name).touch()
    with new_file(tmp_path / "state") as other:  # a writer at work
        with new_file(tmp_path / "state") as temporary:
            temporary.write_text("new")
        other.write_text("newer")
    assert (tmp_path / "state").read_text() == "newer"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*mine[1:], "state"])
    (tmp_path / ".folder-abcdefgh.tmp").mkdir()
    (tmp_path / ".folder-abcdefgh.tmp" / "half").touch()
    with new_folder(tmp_path / "folder"):
        pass
    assert not (tmp_path / ".folder-abcdefgh.tmp").exists()


@pytest.fixture
def victim(tmp_path) -> Path:
    """Something of the user's, outside the run."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("thesis.txt", "best.onnx", "last.safetensors", "manifest.json"):
        (folder / name).write_text("kept")
    return folder


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_a_lock_that_is_somebodys_file_is_refused(victim, tmp_path, kind):
    run, before = RunFolder(tmp_path / "run"), content_of(victim)
    run.path.mkdir()
    lock = run.path / ".lock"
    {
        "link": lambda: lock.symlink_to(victim / "thesis.txt"),
        "dangling link": lambda: lock.symlink_to(victim / "new"),
        "hard link": lambda: lock.hardlink_to(victim / "thesis.txt"),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[kind]()
    with pytest.raises(ArtifactError, match=str(run.path)), run.locked():
        pass
    assert content_of(victim) == before
    assert os.path.lexists(lock)


@pytest.mark.parametrize(
    "name",
    [
        *("weights", "artifacts", "results.csv", "opt.yaml", "hyp.yaml"),
        *("weights/best.onnx", "weights/last.onnx"),
    ],
)
def test_a_run_that_lies_elsewhere_is_refused(victim, tmp_path, name):
    run, before = RunFolder(tmp_path / "run"), content_of(victim)
    link = run.path / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / link.name if link.suffix else victim)
    with pytest.raises(ArtifactError, match=str(link)), run.locked():
        run.clear()
    assert content_of(victim) == before
    assert not (run.path / ".lock").exists()


def test_what_passes_for_an_abandoned_file_is_not_waited_for(victim, tmp_path):
    os.mkfifo(tmp_path / ".state-abcdefgh.tmp")
    (tmp_path / ".state-hgfedcba.tmp").symlink_to(victim)
    before = content_of(victim)
    with new_file(tmp_path / "state") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "state").read_text() == "new"
    assert content_of(victim) == before


def test_a_link_is_not_taken_for_what_was_set_aside(victim, tmp_path):
    (tmp_path / ".new.replaced").symlink_to(victim)
    before = content_of(victim)
    with new_folder(tmp_path / "new") as temporary:
        (temporary / "manifest.json").write_text("new")
    assert not (tmp_path / "new").is_symlink()
    assert content_of(victim) == before

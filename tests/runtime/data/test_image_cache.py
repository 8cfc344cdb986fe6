"""Decoded images kept on the disk: the same bits, whatever happens to the entries."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.errors import ConfigError
from exportloss.runtime.data import decoded_images, image_cache
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.run_folder import RunFolder
from tests.runtime.data.test_loader import ALL, assert_same, make
from tests.support.training_runs import assert_same_run

SIZE = (32, 48)


class _Usage(NamedTuple):
    free: int


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("EXPORTLOSS_CACHE", str(folder))
    return folder


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The images that are decoded for training, as they are."""
    seen: list[Path] = []
    load = decoded_images.load_scaled

    def watched(path, *arguments, **options):
        seen.append(path)
        return load(path, *arguments, **options)

    monkeypatch.setattr(decoded_images, "load_scaled", watched)
    return seen


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in (cache / "images").rglob("*") if path.is_file())


def data(folder: Path, count: int = 5):
    (folder / "data").mkdir()
    return make(folder / "data", count)


@pytest.mark.parametrize("augment", [None, ALL])
def test_batches_are_the_same_and_nothing_is_decoded_again(tmp_path, own_cache, decoded, augment):
    dataset = data(tmp_path)
    held = {path: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    options = {"shuffle": True, "augment": augment}
    plain = [list(Batches(dataset, 2, SIZE, **options).epoch(epoch)) for epoch in (0, 1)]
    assert_same(list(Batches(dataset, 2, SIZE, cache="disk", **options).epoch(0)), plain[0])
    for index in range(5):  # whatever a mosaic has not taken
        Batches(dataset, 2, SIZE, cache="disk", **options)._images.load(index)
    assert len(entries(own_cache)) == 5
    decoded.clear()
    again = Batches(dataset, 2, SIZE, cache="disk", **options)  # as in another process
    for epoch in (0, 1):
        assert_same(list(again.epoch(epoch)), plain[epoch])
    assert decoded == []
    assert {path: path.read_bytes() for path in (tmp_path / "data").iterdir()} == held


def test_size_and_interpolation_have_entries_of_their_own(tmp_path, own_cache):
    dataset = data(tmp_path, 1)
    for size, augment in ((SIZE, None), (SIZE, ALL), ((16, 16), None)):
        expected = Batches(dataset, 1, size, augment=augment)._images.load(0)
        for _ in range(2):
            found = Batches(dataset, 1, size, augment=augment, cache="disk")._images.load(0)
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))
    assert len(entries(own_cache)) == 3


@pytest.mark.parametrize("harm", ["pixel", "checksum", "cut", "longer", "empty", "other", "link"])
def test_a_damaged_entry_is_decoded_anew(tmp_path, own_cache, decoded, harm):
    dataset = data(tmp_path, 2)
    batches = Batches(dataset, 2, SIZE, cache="disk")
    expected = list(batches)
    first, second = entries(own_cache)
    content = bytearray(first.read_bytes())
    if harm == "other":
        content = bytearray(second.read_bytes())
    elif harm == "cut":
        del content[-1]
    elif harm == "longer":
        content += b"\0"
    elif harm == "empty":
        content.clear()
    else:
        content[40 if harm == "pixel" else 0] ^= 1
    if harm == "link":
        first.rename(tmp_path / "elsewhere")
        first.symlink_to(tmp_path / "elsewhere")
    else:
        first.write_bytes(content)
    decoded.clear()
    for _ in range(2):  # the second time it is whole again
        assert_same(list(Batches(dataset, 2, SIZE, cache="disk")), expected)
    assert len(decoded) == 1
    assert not first.is_symlink()


def test_an_image_that_is_replaced_has_another_entry(tmp_path, own_cache):
    dataset = data(tmp_path, 1)
    list(Batches(dataset, 1, SIZE, cache="disk"))
    Image.new("RGB", (32, 24), "red").save(dataset.images[0])
    (batch,) = Batches(dataset, 1, SIZE, cache="disk")
    assert batch.images[0, :, 16, 24].tolist() == [255, 0, 0]
    assert len(entries(own_cache)) == 2


@pytest.mark.parametrize("full", ["reserve", "error", "folder"])
def test_a_full_disk_is_said_once_and_does_not_end_the_training(
    tmp_path, own_cache, monkeypatch, full
):
    dataset = data(tmp_path)
    expected = list(Batches(dataset, 1, SIZE))
    batches = Batches(dataset, 1, SIZE, cache="disk", tell=(told := []).append)
    if full == "reserve":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: _Usage(image_cache._LEAST_FREE))
    elif full == "error":

        def no_space(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", no_space)
    else:
        own_cache.mkdir(exist_ok=True)
        (own_cache / "images").write_text("a file in its place")
    for _ in range(2):
        assert_same(list(batches), expected)
    assert len(told) == 1
    assert str(own_cache / "images") in told[0]
    if full != "folder":
        assert entries(own_cache) == []  # no temporary file either


def test_temporary_files_of_killed_runs_are_removed(tmp_path, own_cache):
    folder = own_cache / "images"
    folder.mkdir(parents=True)
    old, new = folder / "a.tmp", folder / "b.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 3600,) * 2)
    Batches(data(tmp_path, 1), 1, SIZE, cache="disk")
    assert entries(own_cache) == [new]  # it may be another run's


def test_without_a_place_for_it_the_choice_is_refused(tmp_path, monkeypatch):
    dataset = data(tmp_path, 1)
    monkeypatch.setenv("EXPORTLOSS_CACHE", "")
    with pytest.raises(ConfigError, match="EXPORTLOSS_CACHE"):
        Batches(dataset, 1, SIZE, cache="disk")


def test_training_has_the_same_bits_with_every_cache(
    tiny_artifact, tiny_shapes, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tiny_shapes.parent.rglob("*") if path.is_file()}
    options = ["--data", str(tiny_shapes), "--epochs", "2", "--threads", "1", "--batch-size", "2"]
    weights = ["--weights", str(tiny_artifact), "--noplots"]
    for name, *cache in (["none"], ["ram", "--cache"], ["disk", "--cache", "disk"]):
        assert main(["train", *weights, *options, "--name", name, *cache]) == 0
    kept = entries(tmp_path / "cache")
    assert len(kept) == 8 + 3
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: _Usage(0))
        kept[0].unlink()
        kept[1].write_bytes(b"")
        capsys.readouterr()
        assert main(["train", *weights, *options, "--name", "full", "--cache", "disk"]) == 0
    assert capsys.readouterr().out.count("no longer kept") == 1
    for name in ("ram", "disk", "full"):
        assert_same_run(RunFolder(Path("runs/train", name)), RunFolder(Path("runs/train/none")))
    after = {path: path.read_bytes() for path in tiny_shapes.parent.rglob("*") if path.is_file()}
    assert after == before

"""Event files that TensorBoard reads, from a run."""

from __future__ import annotations

import struct

import pytest

from exportloss.cli.train.tensorboard import WithEvents
from exportloss.errors import ArtifactError
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.onnx_files.protobuf import fields
from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.training.event_file import EventFile, crc32c
from exportloss.runtime.training.results import EpochResult, as_row
from tests.support.training_runs import Recorder, make_run


def records(path):
    """Return the data of each record: length, checksum, data, checksum."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        data = content[at + 12 : at + 12 + length]
        for checked, place in ((content[at : at + 8], at + 8), (data, at + 12 + length)):
            (masked,) = struct.unpack_from("<I", content, place)
            rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
            assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == crc32c(checked)
        found.append(data)
        at += 16 + length
    return found


def test_the_checksum_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # both from RFC 3720


def scalars(path):
    """Return {(name, step): value} of a file, and check its first record."""
    first, *others = records(path)
    assert dict(fields(memoryview(first)))[3] == b"brain.Event:2"
    found = {}
    for data in others:
        event = dict(fields(memoryview(data)))
        for _, value in fields(event[5]):
            name = bytes(dict(fields(value))[1]).decode()
            (found[name, event.get(2, 0)],) = struct.unpack("<f", value[-4:])
    return found


@pytest.fixture
def run(tiny_shapes, tmp_path):
    return make_run(tiny_shapes, tmp_path / "runs")


def test_every_column_of_every_epoch_is_a_scalar(tiny_artifact, run, tmp_path):
    recorder, path = Recorder(), tmp_path / "events"
    reporter = WithEvents(recorder, EventFile(path))
    result = run.train(TrainSession.open(tiny_artifact, threads=1), reporter=reporter)
    expected = {
        (name, epoch.epoch): pytest.approx(value, rel=1e-6)
        for epoch in result.epochs
        for name, value in as_row(epoch).items()
        if name != "epoch"
    }
    assert scalars(path) == expected
    assert [epoch for epoch, _ in recorder.epochs] == list(result.epochs)
    assert (len(recorder.starts), len(recorder.batches)) == (1, 12)
    # A resumed run writes those anew that it has, and goes on.
    EventFile(path, result.epochs[:2]).add(result.epochs[2])
    assert scalars(path) == expected


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="file/events"):
        EventFile(tmp_path / "file" / "events")


@pytest.mark.parametrize("kind", ["symlink_to", "hardlink_to"])
def test_what_an_event_file_is_linked_to_stays(tmp_path, kind):
    mine, path = tmp_path / "mine", tmp_path / "events"
    mine.write_text("kept")
    getattr(path, kind)(mine)
    events = EventFile(path)
    assert mine.read_text() == "kept" and not path.is_symlink()
    path.unlink()
    path.symlink_to(mine)
    with pytest.raises(ArtifactError, match=str(path)):
        events.add(
            EpochResult(epoch=0, train=LossTerms(0.1, 0.2, 0.3), val=None, lr=(0.1, 0.1, 0.1))
        )
    assert mine.read_text() == "kept"

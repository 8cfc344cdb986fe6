"""What several ranks can train, and what each has of its machine."""

from __future__ import annotations

import dataclasses
import os
import sys
from types import SimpleNamespace

import pytest

from exportloss import ArtifactError, ConfigError
from exportloss.cli import main
from exportloss.distributed.distributable import device_of_rank, distributable, threads_of_rank
from exportloss.runtime import TrainSession
from tests.support.messages import error_of, mentions, missing


def ranks(rank: int, size: int) -> SimpleNamespace:
    return SimpleNamespace(local_rank=rank, local_size=size)


def test_training_artifacts_cannot_be_shared(ort_artifact):
    session = TrainSession.open(ort_artifact, threads=1)
    with pytest.raises(ArtifactError, match=mentions(ort_artifact, "ort-training")) as caught:
        distributable(session)
    assert caught.value.argument == "format"


def test_steps_that_cannot_be_shared_are_refused(tiny_artifact):
    session = TrainSession.open(tiny_artifact, threads=1)
    assert distributable(session) is session
    manifest = session.manifest
    balancing = dataclasses.replace(manifest.loss, autobalance=True)
    session.manifest = dataclasses.replace(manifest, loss=balancing)
    with pytest.raises(ConfigError, match=mentions(tiny_artifact, "autobalance")):
        distributable(session)
    files = {name: file for name, file in manifest.files.items() if name != "apply_step.onnx"}
    session.manifest = dataclasses.replace(manifest, files=files)
    with pytest.raises(ArtifactError, match=mentions(tiny_artifact, "apply_step.onnx")):
        distributable(session)


@pytest.mark.parametrize(
    ("device", "rank", "size", "expected"),
    [
        ("cuda", 1, 2, "cuda:1"),
        ("cuda", 0, 1, "cuda"),
        ("cuda:3", 1, 2, "cuda:3"),
        ("cpu", 1, 2, "cpu"),
        ("openvino", 1, 2, "openvino"),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(device, rank, size, expected):
    assert device_of_rank(device, ranks(rank, size)) == expected


def test_ranks_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [threads_of_rank(None, ranks(0, size)) for size in (1, 3, 9)] == [None, 2, 1]
    assert threads_of_rank(5, ranks(0, 4)) == 5


def test_mpi_that_is_missing_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    words = ["--weights", tmp_path, "--data", tmp_path / "data.yaml", "--distributed", "mpi"]
    assert main(["train", *map(str, words)]) == 2
    assert not missing(error_of(capsys.readouterr().err), "mpi4py", "[mpi]", "--distributed")

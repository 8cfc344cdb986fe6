"""Folders of earlier versions open, and train as they did."""

from __future__ import annotations

import json

import numpy as np
import pytest

from exportloss.runtime import TrainSession
from tests.support.old_folders import make_batch, unpack

STEPS = 3


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return unpack("0.1", tmp_path_factory.mktemp("old"))


@pytest.mark.parametrize("kind", ["step", "ort"])
def test_an_old_folder_trains_as_it_did(old, kind):
    recorded = json.loads((old / "losses.json").read_text())[kind]
    session = TrainSession.open(old / kind, threads=1)
    losses = [session.step(*make_batch(number), lr=0.01).loss for number in range(STEPS)]
    np.testing.assert_allclose(losses, recorded["steps"], rtol=1e-5)
    evaluation = session.evaluate(*make_batch(STEPS))
    np.testing.assert_allclose(evaluation.loss, recorded["evaluation"], rtol=1e-5)


def test_an_old_state_is_resumed(old):
    recorded = json.loads((old / "losses.json").read_text())["step"]
    session = TrainSession.open(old / "step", threads=1).resume(old / "state.safetensors")
    assert session.updates == STEPS
    evaluation = session.evaluate(*make_batch(STEPS))
    np.testing.assert_allclose(evaluation.loss, recorded["evaluation"], rtol=1e-5)

"""Tensors in a flat vector: cut and joined again they are the same, and so is what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportloss.runtime import Manifest
from exportloss.runtime.artifact.flat_layout import FlatLayout, StateLayout
from tests.support.manifests import read_values
from tests.support.messages import mentions
from tests.support.old_folders import unpack

SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), max_size=5)


@given(SHAPES)
def test_tensors_are_joined_and_split(shapes):
    layout = FlatLayout(tuple(f"t{index}" for index in range(len(shapes))), tuple(shapes))
    vector = np.arange(layout.size, dtype=np.float32)
    tensors = layout.split(vector)
    assert {name: tensor.shape for name, tensor in tensors.items()} == layout.by_name
    for name, offset in zip(layout.names, layout.offsets, strict=True):
        assert tensors[name].flat[0] == offset
    np.testing.assert_array_equal(layout.join(tensors | {"other": np.zeros(9)}), vector)


@given(SHAPES)
def test_what_is_written_is_read(shapes):
    layout = FlatLayout(tuple(f"t{index}" for index in range(len(shapes))), tuple(shapes))
    assert FlatLayout.from_values(json.loads(json.dumps(layout.to_values()))) == layout


def test_a_layout_of_an_earlier_version_is_written_as_it_was(tmp_path):
    folder = unpack("0.1", tmp_path) / "step"
    layout = Manifest.read(folder).layout
    assert layout is not None
    assert layout.statistics.size > 0
    assert json.dumps(layout.to_values()) == json.dumps(read_values(folder)["layout"])


def test_a_manifest_is_written_as_it_was(step_artifact, ort_artifact):
    for folder in (step_artifact, ort_artifact):
        assert Manifest.read(folder).to_json() == (folder / "manifest.json").read_text()


def entry(name="w", shape=(2, 3), offset=0):
    return {"name": name, "shape": list(shape), "offset": offset}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([entry(offset=1)], ["'w'", "at 1", "expected 0"]),
        ([entry(), entry("v", offset=5)], ["'v'", "at 5", "expected 6"]),
        ([entry(), entry(offset=6)], ["'w'"]),
        ([entry(shape=(2, 0))], ["'w'", (2, 0)]),
        ([{"name": "w", "offset": 0}], ["shape"]),
        ({"w": entry()}, ["'w'"]),
        ("w", ["'w'"]),
        ([entry("v", (1,), n) for n in range(100_001)], ["100000"]),
    ],
)
def test_a_layout_that_cannot_be_is_refused(values, said):
    with pytest.raises((KeyError, ValueError), match=mentions(*said)):
        FlatLayout.from_values(values)
    with pytest.raises((KeyError, ValueError), match=mentions(*said)):
        StateLayout.from_values({"parameters": [], "statistics": values, "memories": []})

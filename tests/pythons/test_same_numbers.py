"""Training gives the same bits on every Python, and nearly the same numbers on other engines.

Of the same release of ONNX Runtime on the same processor, losses and states are equal to the bit.
"""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors.numpy import save_file

from tests.pythons.records import Record, difference, pairs, read_records

RECORDS = read_records()
PAIRS = list(pairs(RECORDS))
# Relative. What an optimizer keeps is of the size of gradients, which cancel.
LOSS, MODEL, OPTIMIZER = 1e-6, 1e-6, 2e-4

pytestmark = pytest.mark.skipif(not PAIRS, reason="no steps were trained in two environments")


def name_of(pair: tuple[Record, Record, str]) -> str:
    one, other, case = pair
    return f"{one.folder.name}-{other.folder.name}-{case}"


@pytest.mark.parametrize("pair", PAIRS, ids=name_of)
def test_numbers_are_the_same(pair):
    one, other, case = pair
    found = difference(*pair)
    if one.engine == other.engine:
        assert found.same_bits, f"{case}: {one} and {other}: {found}"
    assert found.loss <= LOSS
    for part, value in found.parts.items():
        assert value <= (MODEL if part in ("model", "ema", "balance") else OPTIMIZER), part


def test_a_difference_is_seen(tmp_path):
    """The comparison of a record with itself, changed."""
    record = RECORDS[0]
    case = next(iter(record.cases))
    shutil.copytree(record.folder, tmp_path / "other")
    content = json.loads((tmp_path / "other" / "record.json").read_text())
    content["cases"][case]["losses"][-1] *= 1 + 1e-5
    (tmp_path / "other" / "record.json").write_text(json.dumps(content))
    tensors = record.tensors(case)
    name = max(tensors, key=lambda name: tensors[name].size)
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, tmp_path / "other" / f"{case}.safetensors")
    (other,) = read_records(tmp_path)
    found = difference(record, other, case)
    assert not found.same_bits
    assert found.loss == pytest.approx(1e-5, rel=1e-3)
    assert max(found.parts.values()) > 1e-4

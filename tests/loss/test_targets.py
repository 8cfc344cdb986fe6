"""Target rows on the host: what is refused, and how."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from exportloss import ExportLossError, TargetError, TooManyTargetsError, pad_targets
from tests.support.messages import mentions, missing

GOOD = (1, 2, 0.5, 0.25, 0.125, 1.0)


def pad(rows, max_targets=4, **options):
    return pad_targets(rows, max_targets, batch_size=2, num_classes=3, **options)


def test_rows_are_kept_in_order_and_padded_with_zeros():
    rows = np.array([GOOD, (0, 0, 0, 1, 0, 1)])
    padded = pad(rows)
    assert padded.dtype == np.float32 and padded.shape == (4, 6)
    np.testing.assert_array_equal(padded[:2], rows)
    assert (padded[2:] == 0).all()


@pytest.mark.parametrize("rows", [[], np.zeros((0, 6)), np.zeros((0,))])
def test_no_rows(rows):
    assert (pad(rows) == 0).all()


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        (0, 2, "0 to 1"),
        (0, -1, "0 to 1"),
        (0, 0.5, "whole number"),
        (1, 3, "0 to 2"),
        (1, -1, "0 to 2"),
        (1, 1.5, "whole number"),
        (2, -0.01, "negative"),
        (3, 1.01, "over 1"),
        (4, -0.5, "negative"),
        (5, 2, "over 1"),
        *((column, np.nan, "finite") for column in range(6)),
        *((column, np.inf, "finite") for column in range(6)),
    ],
)
def test_bad_row_is_named(column, value, expected):
    bad = list(GOOD)
    bad[column] = value
    with pytest.raises(TargetError) as error:
        pad([GOOD, bad, GOOD])
    first, line = str(error.value).splitlines()
    assert not missing(first, 1, 3)
    name = ("image", "class", "x", "y", "width", "height")[column]
    assert not missing(line, "row 1", f"{name} is {value}", expected)


def test_every_bad_row_is_named_up_to_a_limit():
    with pytest.raises(TargetError) as error:
        pad([(9, 0, 0, 0, 0, 0)] * 30)
    lines = str(error.value).splitlines()
    assert sum(not missing(line, "image", 9) for line in lines) == 20
    assert not missing(lines[-1], 10)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (np.zeros((2, 5)), ((2, 5), "(n, 6)")),
        (np.zeros(6), ((6,), "(n, 6)")),
        (np.zeros((1, 2, 6)), ((1, 2, 6), "(n, 6)")),
        ([["a"] * 6], ("<U1", "float32")),
        ([[True] * 6], ("bool", "float32")),
        ([[1j] * 6], ("complex128", "float32")),
        ([GOOD, GOOD[:5]], ("ragged", "(n, 6)")),
    ],
)
def test_wrong_shape_or_type(rows, told):
    with pytest.raises(TargetError, match=mentions(*told)):
        pad(rows)


def test_too_many_rows():
    with pytest.raises(TooManyTargetsError, match=mentions(5, 4, "max_targets", "keep_largest")):
        pad([GOOD] * 5)


def test_the_largest_are_kept_on_request():
    sides = (0.1, 0.5, 0.2, 0.4, 0.3)
    rows = [(0, 0, 0.5, 0.5, side, side) for side in sides]
    padded, left_out = pad(rows, 3, overflow="keep_largest")
    assert left_out == 2
    np.testing.assert_allclose(padded[:, 4], [0.5, 0.4, 0.3])  # in the order they came
    _, none = pad(rows[:2], 3, overflow="keep_largest")
    assert none == 0


@pytest.mark.parametrize("name", ["max_targets", "batch_size", "num_classes"])
def test_sizes_below_one(name):
    sizes = {"max_targets": 1, "batch_size": 1, "num_classes": 1} | {name: 0}
    with pytest.raises(TargetError, match=mentions(name, 0, 1)):
        pad_targets([], **sizes)


def test_unknown_overflow():
    with pytest.raises(
        TargetError, match=mentions("overflow", "'drop'", "'raise'", "'keep_largest'")
    ):
        pad([], overflow="drop")


@given(
    npst.arrays(
        npst.floating_dtypes() | npst.integer_dtypes(),
        npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7),
    ),
    st.integers(1, 5),
)
def test_anything_is_padded_or_refused(rows, max_targets):
    try:
        padded = pad(rows, max_targets)
    except ExportLossError:
        return
    assert padded.shape == (max_targets, 6) and np.isfinite(padded).all()
    assert (padded >= 0).all() and (padded[:, 2:] <= 1).all() and (padded[:, 1] < 3).all()


_share = st.sampled_from([0.0, 1e-6, 0.5, 1.0]) | st.floats(0, 1, width=32)
_rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 2), _share, _share, _share, _share), max_size=12
)


@given(_rows, st.integers(1, 8))
def test_good_rows_are_kept_to_the_bit_or_counted(rows, max_targets):
    rows = np.array(rows, np.float32).reshape(-1, 6)
    padded, left_out = pad(rows, max_targets, overflow="keep_largest")
    kept = len(rows) - left_out
    assert kept == min(len(rows), max_targets)
    assert (padded[kept:] == 0).all()

    # In their order, each once, and none that is dropped is larger than one that is kept.
    remaining = iter(range(len(rows)))
    found = [next(i for i in remaining if (rows[i] == row).all()) for row in padded[:kept]]
    areas = rows[:, 4].astype(np.float64) * rows[:, 5]
    assert np.sort(areas)[left_out:].tolist() == np.sort(areas[found]).tolist()

    if not left_out:
        np.testing.assert_array_equal(pad(rows, max_targets), padded)
    again, none = pad(padded, max_targets, overflow="keep_largest")
    np.testing.assert_array_equal(again, padded)
    assert none == 0


@given(_rows.filter(bool), st.integers(0, 5), st.floats(), st.data())
def test_a_bad_value_anywhere_is_refused(rows, column, value, data):
    rows = np.array(rows, np.float64)
    index = data.draw(st.integers(0, len(rows) - 1))
    rows[index, column] = value
    limits = (1, 2, 1, 1, 1, 1)
    is_good = 0 <= value <= limits[column] and (column > 1 or value == int(value))
    try:
        pad(rows, 12)
    except TargetError as error:
        assert not is_good and f"row {index}: " in str(error)
    else:
        assert is_good

"""Markers and units at the boundary of files."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from xec.errors import FileError
from xec.io.markers import MARKER, split_markers, with_markers

MARKERS = [1e10, 9.1e9, np.nan, -999.0, np.inf, 3.4e38]

raw_values = st.one_of(
    st.sampled_from(MARKERS), st.floats(-1e6, 1e6, width=32).filter(lambda x: x != -999.0)
)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=raw_values))
def test_every_marker_becomes_a_bit_and_every_number_stays(raw: np.ndarray) -> None:
    values, valid = split_markers(raw, 1.0, "file: branch npho", 0)
    # An oracle of another kind: one value at a time, in plain Python.
    for stored, value, bit in zip(raw.ravel(), values.ravel(), valid.ravel(), strict=True):
        number = float(stored)
        marker = number != number or number > 9e9 or number == -999.0
        assert bit == (not marker)
        assert float(value) == (0.0 if marker else number)
    assert values.dtype == np.float32
    assert np.isfinite(values).all()


def test_threshold_itself_is_a_number() -> None:
    values, valid = split_markers(np.array([9.0e9, 9.0e9 + 1.0]), 1.0, "x", 0)
    assert valid.tolist() == [True, False]
    assert values.tolist() == [np.float32(9.0e9), 0.0]


@pytest.mark.parametrize("bits", [0x7F800001, 0xFF800001, 0x7FC00000])
def test_any_kind_of_nan_is_a_marker_without_a_warning(bits: int) -> None:
    raw = np.array([bits], dtype=np.uint32).view(np.float32)
    values, valid = split_markers(raw, 1e9, "x", 0)
    assert values.tolist() == [0.0]
    assert valid.tolist() == [False]


@pytest.mark.parametrize(
    ("value", "dtype", "factor"),
    [(-np.inf, "f4", 1.0), (-np.inf, "f8", 1.0), (-1e38, "f4", 1e3), (-9.1e9, "f4", 1.0)],
)
def test_what_is_too_far_down_names_entry_and_branch(
    value: float, dtype: str, factor: float
) -> None:
    raw = np.zeros((4, 3), dtype=dtype)
    raw[2, 1] = value
    shown = re.escape(f"{value:g}")
    with pytest.raises(FileError, match=rf"a\.root: branch npho holds {shown} at entry 102, "):
        split_markers(raw, factor, "a.root: branch npho", 100)


def test_a_marker_that_was_converted_like_a_reading_is_one() -> None:
    """1e10 ns written as seconds is 10 s: no time of an event, and no number inside."""
    values, valid = split_markers(np.array([10.0, 8.0, -8.0], dtype=np.float32), 1e9, "x", 0)
    assert valid.tolist() == [False, True, True]
    assert values.tolist() == [0.0, np.float32(8e9), np.float32(-8e9)]


def test_conversion_is_rounded_once() -> None:
    """Seconds become nanoseconds as the exact product does, not as narrowed seconds would."""
    seconds = np.random.default_rng(1).uniform(0, 3e-7, 2000)
    nanoseconds, _ = split_markers(seconds, 1e9, "x", 0)
    exact = (seconds.astype(np.longdouble) * 10**9).astype(np.float32)
    assert np.array_equal(nanoseconds, exact)
    # Control: narrowing first differs on this sample, so the test can tell.
    assert not np.array_equal(seconds.astype(np.float32) * np.float32(1e9), exact)


@given(arrays(np.float32, (3, 5), elements=st.floats(-1e6, 1e6, width=32)), st.data())
def test_written_markers_are_read_as_bits(values: np.ndarray, data: st.DataObject) -> None:
    values[values == -999.0] = 0.0
    valid = data.draw(arrays(np.bool_, values.shape))
    stored = with_markers(values, valid)
    assert np.all(stored[~valid] == MARKER)
    back, bits = split_markers(stored, 1.0, "x", 0)
    assert np.array_equal(bits, valid)
    assert np.array_equal(back, np.where(valid, values, 0))

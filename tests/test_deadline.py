"""What users write for a timeout, and what it means."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock._deadline import FOREVER, seconds


def test_none_is_for_ever() -> None:
    assert seconds(None) == FOREVER
    assert seconds(math.inf) == FOREVER


@given(st.floats(0, allow_nan=False) | st.integers(0, 10**18) | st.fractions(0, 10**6) | st.decimals(0, 10**6))
def test_numbers_are_seconds(value: Any) -> None:
    assert seconds(value) == float(value)
    assert type(seconds(value)) is float


@given(st.floats(max_value=0, exclude_max=True) | st.integers(max_value=-1) | st.fractions(max_value=-1))
def test_negative_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="negative"):
        seconds(value)


@given(st.text() | st.binary() | st.booleans() | st.lists(st.floats()) | st.complex_numbers())
def test_what_is_no_real_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        seconds(value)


@pytest.mark.parametrize("value", [float("nan"), Decimal("nan")])
def test_nan_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="NaN"):
        seconds(value)


def test_zero_in_all_spellings_is_one_attempt() -> None:
    for zero in (0, 0.0, -0.0, Fraction(0), Decimal(0)):
        assert seconds(zero) == 0.0

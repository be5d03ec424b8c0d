"""Numbers at the door: what is one, what is out of range, and the sentence that says so."""

import math
from fractions import Fraction

import numpy as np
import pytest

from aion_lite.arguments import real_number, whole_number


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_a_whole_number_comes_back_as_an_int(value):
    assert whole_number("n", value, 3, 3) == 3 and type(whole_number("n", value)) is int


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_a_number_comes_back_as_a_float(value):
    assert real_number("x", value, 0.5, 0.5) == 0.5 and type(real_number("x", value)) is float


@pytest.mark.parametrize("value", [3.0, "3", None, True, np.array([3]), 3j])
def test_what_is_no_whole_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^n is a whole number, got "):
        whole_number("n", value)


@pytest.mark.parametrize("value", ["0.5", None, False, [0.5], 1j])
def test_what_is_no_number_is_a_type_error(value):
    with pytest.raises(TypeError, match=r"^x is a finite number, got "):
        real_number("x", value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, 2])
def test_a_number_out_of_range_is_a_value_error(value):
    with pytest.raises(ValueError, match=rf"^x is a finite number from 0 to 1, got {value}.$"):
        real_number("x", value, 0, 1)
    if value != 2:
        with pytest.raises(ValueError, match=rf"^x is a finite number of 0 or more, got {value}.$"):
            real_number("x", value, 0)

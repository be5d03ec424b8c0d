"""Numbers that a caller gives, checked at the door. Imports nothing of the package."""

from __future__ import annotations

import math
import numbers
from typing import Any


def whole_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> int:
    """``value`` as an int. TypeError where it is no whole number, ValueError where not in low..high."""
    return int(_number(name, value, low, high, numbers.Integral, "a whole number"))


def real_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """``value`` as a float. TypeError where it is no number, ValueError where not finite or in low..high."""
    return float(_number(name, value, low, high, numbers.Real, "a finite number"))


def _number(name: str, value: Any, low: float, high: float, kind: type, what: str) -> Any:
    is_kind = isinstance(value, kind) and not isinstance(value, bool)
    if is_kind and low <= value <= high and math.isfinite(value):
        return value
    where = "" if low == -math.inf else f" of {low} or more" if high == math.inf else f" from {low} to {high}"
    raise (ValueError if is_kind else TypeError)(f"{name} is {what}{where}, got {value!r}.")

"""What a page may say, checked before it is done."""

from __future__ import annotations

import math
from typing import Any

from actsort_core.errors import ActsortError, UsageError

LONGEST_MARK = 80  # characters


def mark(value: Any) -> str:
    """An id of the page's own making; raises `UsageError` where it is none."""
    if not isinstance(value, str) or not value or len(value) > LONGEST_MARK:
        raise UsageError(
            "What is said needs an id of its own.", f"Send an id of 1 to {LONGEST_MARK} characters; the same one when it is sent again."
        )
    return value


def number(value: Any) -> float | None:
    """A number that a journal can hold, or None.

    Raises
    ------
    UsageError
        It is none.
    """
    try:
        found = None if value is None or isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if (value is not None and found is None) or (found is not None and not math.isfinite(found)):
        raise UsageError("The label is not as it should be.", f"{str(value)[:40]} is no number that can be kept.")
    return found


def share(value: Any) -> float | None:
    """A probability, or None; raises as `number` does."""
    found = number(value)
    if found is not None and not 0 <= found <= 1:
        raise UsageError("The label is not as it should be.", f"{found} is no probability.")
    return found


def found_or_why(look: Any) -> tuple[Any, str | None]:
    """What is found, or the sentence that says why there is nothing."""
    try:
        return look(), None
    except ActsortError as error:
        return None, f"{error.what} {error.hint}".strip()

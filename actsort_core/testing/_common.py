"""What the checks share: turning broken promises into sentences."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def require(ok: Any, sentence: str) -> None:
    if not ok:
        raise AssertionError(sentence)


@contextlib.contextmanager
def doing(what: str, passing: type[Exception] = AssertionError) -> Iterator[None]:
    """Turn whatever a plug-in raises, but for `passing`, into a sentence saying what it was asked to do."""
    try:
        yield
    except (AssertionError, passing):
        raise
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__}: {error}") from error


def check_name(kind: str, obj: Any) -> None:
    name, description = getattr(obj, "name", None), getattr(obj, "description", "-")
    require(isinstance(name, str) and name and name == name.strip(), f"The {kind} has no usable name: {name!r}.")
    require(isinstance(description, str) and description.strip(), f"The {kind} {name!r} has no description.")
